"""What a run needs: its shards, settings, base model and run folder. Training's own checks, asked one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clinical_pretrain.cluster.checks import check_base_model_is_local
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.observe.doctor.findings import Finding, ok, refused, warning
from clinical_pretrain.observe.doctor.folders import check_reading
from clinical_pretrain.training.auto import is_auto
from clinical_pretrain.training.preflight import check_files, check_folder, load_shards, make_spec
from tokenizer_tools.errors import UserError
from tokenizer_tools.hub_access import hub_is_reachable
from tokenizer_tools.wording import counted


def check_run(config: RunConfig, world_size: int) -> list[Finding]:
    """All checks of this module.

    Args:
        config: the run's settings.
        world_size: ranks of the run.
    """
    shards = Path(config.data.shards)
    findings = []
    try:
        check_files(config)
        manifest = load_shards(shards)
    except UserError as error:
        return [refused("files", error), check_base_model(config)]
    except ImportError:  # a library can't be loaded: the ranks fail by it, too, and say so
        return [check_base_model(config)]
    splits = ", ".join(f"{split.sequences:,} {name}" for name, split in manifest.splits.items())
    findings.append(ok("shards", f"{shards}: {splits} sequences of {manifest.sequence_length:,} tokens"))
    findings.append(check_reading(shards, manifest))
    findings.append(check_base_model(config))
    try:
        spec = make_spec(config, world_size)
    except UserError as error:
        return [*findings, refused("settings", error)]
    except (ImportError, OSError):  # torch can't be loaded
        return findings
    if is_auto(spec.config):
        of_each = f"{config.batch.train_batch_size // world_size} sequences per step, in micro-batches by GPU memory"
    else:
        of_each = f"{spec.accumulation_steps} x {spec.config.batch.micro_batch_size_per_gpu} sequences per step"
    findings.append(ok("settings", f"{counted(world_size, 'rank')}, each {of_each}"))
    return [*findings, *_refusal("run folder's content", lambda: check_folder(spec))]


def _refusal(name: str, check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except UserError as error:
        return [refused(name, error)]
    except OSError:  # can't be read: the check of writing says so
        pass
    return []


def check_base_model(config: RunConfig) -> Finding:
    """Whether the base model can be loaded without internet."""
    name = config.model.name_or_path
    if config.model.init == "random":
        return ok("base model", "none: the weights begin at random")
    try:
        check_base_model_is_local(name)
    except UserError as error:
        if hub_is_reachable():
            found = f"{name}: not in the cache; a run on this machine downloads it"
            return warning("base model", found, f"hf download {name}, as compute nodes don't go online")
        return refused("base model", error)
    return ok("base model", f"{name}: {'a folder' if Path(name).exists() else 'in the cache'}")
