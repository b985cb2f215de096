"""Parts of run folders, as tests need them."""

import json
from pathlib import Path

from clinical_pretrain.run_folder import metrics
from clinical_pretrain.run_folder.paths import RunFolder


def write_metrics(run_dir: Path, lines):
    """A metrics log of these lines."""
    texts = (json.dumps({"format_version": metrics.FORMAT_VERSION, **line}, ensure_ascii=False) for line in lines)
    RunFolder(run_dir).metrics_file.write_text("".join(f"{text}\n" for text in texts))
