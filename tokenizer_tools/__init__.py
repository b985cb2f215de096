"""Raw clinical notes to tokenised shards. Imports neither torch nor deepspeed."""
