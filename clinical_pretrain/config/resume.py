"""Compare a run's settings with those that its run folder holds, by the rule at each field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clinical_pretrain.config.fields import Resume, settings_of
from clinical_pretrain.config.reading import flatten
from clinical_pretrain.config.run_config import RunConfig


def changed_settings(old: Mapping[str, Any], config: RunConfig) -> tuple[list[str], list[str]]:
    """Settings that differ from those of a run folder.

    Args:
        old: the folder's `config.yaml`. A setting that is newer than the file has its default.
        config: the settings to resume with.

    Returns:
        The changes that need `checkpoint.accept_changes`, and those that are never allowed.
    """
    before, now = flatten(RunConfig().to_dict()) | flatten(old), flatten(config.to_dict())
    changes: dict[Resume | None, list[str]] = {Resume.ACCEPTED: [], Resume.FIXED: []}
    for setting in settings_of(RunConfig):
        key = setting.key
        if setting.resume in changes and before[key] != now[key]:
            changes[setting.resume].append(f"{key} was {json.dumps(before[key])}, now {json.dumps(now[key])}")
    return changes[Resume.ACCEPTED], changes[Resume.FIXED]
