"""A user's config: keys that are unknown or were dropped, wherever they are set."""

import json

import pytest

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.config.defaults import RETIRED
from gcn_jax.errors import UserError
from tests import command_line

_OWN = """from gcn_jax import config as config_lib


def get_config():
    config = config_lib.default()
    config.update(num_steps=2, batch_size=1)
    config.data.update(train="shapes/train", eval="shapes/val", size=64)
    config.model.update(backbone="resnet14", width=4, kernel_size=3)
    {line}
    return config
"""


def told(tmp_path, line="", *args):
    """What is said of a config file of a user's own with a line."""
    path = tmp_path / "own.py"
    path.write_text(_OWN.format(line=line))
    common = (f"--workdir={tmp_path / 'run'}", f"--config.cache_dir={tmp_path / 'cache'}")
    err = command_line.refused(f"--config={path}", *args, *common)
    assert not (tmp_path / "run").exists()
    return err


@pytest.mark.parametrize("mode", ["train", "prepare", "plan"])
def test_a_misspelt_key_of_a_file_is_named(tmp_path, mode):
    """Otherwise it would be read by nobody, in silence."""
    for line, key in (
        ('config.data.trian = "shapes/train"', "data.trian"),
        ("config.nmu_steps = 3", "nmu_steps"),
        ("config.modle = {'width': 4}", "modle"),
    ):
        expected = f"run.py: error: config.{key}: unknown key; gcn_jax/config/defaults.py lists all keys\n"
        assert told(tmp_path, line, f"--mode={mode}") == expected


def test_a_dropped_key_names_the_one_to_set(tmp_path):
    told_of = "{}config.predict.crf was dropped; set config.eval.crf, which predict takes, too\n"
    assert told(tmp_path, 'config.predict.crf = "voc"') == told_of.format("run.py: error: ")
    assert told(tmp_path, "", "--config.predict.crf=voc") == told_of.format("run.py: error: --")


def test_dropped_keys_are_gone_and_lead_to_keys():
    config = config_lib.default()
    for old, new in RETIRED.items():
        for key, is_there in ((old, False), (new, True)):
            group, _, name = key.partition(".")
            assert (name in config[group]) == is_there


def test_a_runs_config_of_before_is_read(config, tmp_path):
    """A dropped key does not say what a model is; an unknown one may."""
    saved_config.save(config, tmp_path)
    expected, path = saved_config.load(tmp_path), tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["predict"]["crf"] = "10,3,1,4,67,3"
    path.write_text(json.dumps(values))
    assert saved_config.load(tmp_path) == expected
    assert saved_config.of_trained(config, tmp_path, ()).to_dict() == config.to_dict()
    values["predict"]["crfs"] = ""
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.json: damaged \(unknown key 'crfs', of another version\)"):
        saved_config.load(tmp_path)
