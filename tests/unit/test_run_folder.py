"""Whether a run folder holds this very run."""

import json
from dataclasses import replace

import pytest
import yaml

from clinical_pretrain.config import OptimConfig, RunConfig
from clinical_pretrain.run_folder import refuse_other_run
from tokenizer_tools.manifest import Manifest, UserError


def test_a_run_from_before_some_settings_existed_goes_on(shards, tmp_path):
    config, manifest = RunConfig(), Manifest.load(shards)
    old = config.to_dict()
    del old["compile"], old["attention"]["backend"], old["data"]["document_attention"], old["validation"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    (tmp_path / "deepspeed.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps({"shard_fingerprint": manifest.fingerprint}))
    refuse_other_run(tmp_path, config, {}, manifest)
    refuse_other_run(tmp_path, replace(config, compile="off", checkpointing="none"), {}, manifest)
    with pytest.raises(UserError, match=r"optim.learning_rate was 3e-05, now 0.1; go back"):
        refuse_other_run(tmp_path, replace(config, optim=OptimConfig(learning_rate=0.1)), {}, manifest)
