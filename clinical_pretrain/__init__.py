"""Tokenised shards to a Hugging Face model: continued masked-LM pretraining of Longformer and BigBird."""
