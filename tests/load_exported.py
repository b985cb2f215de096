"""What plain transformers makes of folders: python load_exported.py FOLDER..., by whatever version PYTHONPATH gives."""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer

answers = {}
for folder in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        f"The patient denies chest {tokenizer.mask_token} pain.\n  pH 7.35,\tCafé",
        f"BP 120/80 {tokenizer.unk_token}{tokenizer.sep_token} DIGOXIN",
        "µ ≥ 3",
        "",
    ]
    ids = [tokenizer(text).input_ids for text in texts]
    answers[folder] = {
        "ids": [*ids, tokenizer(texts[2], texts[1]).input_ids],
        "decoded": [tokenizer.decode(each, skip_special_tokens=True) for each in ids],
        "inputs": sorted(tokenizer("a")),
        "special": sorted(tokenizer.all_special_ids),
        "model_max_length": tokenizer.model_max_length,
    }
    if (Path(folder) / "config.json").exists():
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        rows = torch.arange(model.config.max_position_embeddings // 2)[None] % model.config.vocab_size
        with torch.no_grad():
            logits = model(rows).logits[0]
        answers[folder]["logits"] = [round(value, 3) for value in logits[::16, ::16].flatten().tolist()]
print(json.dumps({"version": transformers.__version__, "answers": answers}))
