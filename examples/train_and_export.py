"""Train a tiny model on one CPU rank, export it, and fill a mask with plain transformers.

usage: DS_ACCELERATOR=cpu python examples/train_and_export.py FOLDER   (that notes_to_shards.py has filled)
"""

import sys
from pathlib import Path

from transformers import pipeline

from clinical_pretrain.config.data import DataConfig
from clinical_pretrain.config.model import ModelConfig, ModelSize
from clinical_pretrain.config.optim import BatchConfig, OptimConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import shut_down
from clinical_pretrain.release.export import export
from clinical_pretrain.training.train import train

folder = Path(sys.argv[1])
size = ModelSize(num_hidden_layers=2, hidden_size=64, num_attention_heads=2, intermediate_size=128, attention_window=32)
config = RunConfig(
    run_dir=str(folder / "run"),
    max_steps=20,
    precision="fp32",
    deepspeed="ds_configs/zero1.json",
    model=ModelConfig(init="random", size=size),
    data=DataConfig(shards=str(folder / "shards")),
    batch=BatchConfig(train_batch_size=8, micro_batch_size_per_gpu=4),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=4),
)
try:
    summary = train(config)  # run this script again: the run is finished, and says so
finally:
    shut_down()
print(f"validation loss: {summary['validation_loss_before']:.2f}, then {summary['validation_loss_after']:.2f}")

export(folder / "run", folder / "model")
fill = pipeline("fill-mask", model=str(folder / "model"))
for guess in fill(f"The patient denies chest {fill.tokenizer.mask_token}.", top_k=3):
    print(f"{guess['score']:.1%} {guess['token_str']!r}")
