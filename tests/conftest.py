"""Eight CPU devices and strict JAX, set before any test imports it."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import pathlib

import ml_collections
import pytest

from gcn_jax import config as config_lib

REAL_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> pathlib.Path:
    """The folder of real data sets, where a checkout has one beside it."""
    if not REAL_DATA.is_dir():
        pytest.skip("needs the real data sets, which are not part of the project")
    return REAL_DATA


@pytest.fixture
def config(tmp_path) -> ml_collections.ConfigDict:
    """A valid config of a tiny model on `shapes`."""
    config = config_lib.default()
    config.num_steps = 6
    config.batch_size = 2
    config.cache_dir = str(tmp_path / "cache")
    config.data.update(train="shapes/train", eval="shapes/val", size=64)
    config.model.update(backbone="resnet14", width=4, kernel_size=3)
    config.optimizer.learning_rate = 1e-3
    config_lib.validate(config)
    return config
