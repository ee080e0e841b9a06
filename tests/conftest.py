"""Eight CPU devices, strict JAX and a compilation cache, set before any test imports it; the order of the files."""

import hashlib
import importlib.util
import os
import pathlib
import platform
import sys
import types
from importlib import metadata

ROOT = pathlib.Path(__file__).parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"


def _this_cpu() -> str:
    """A name of this kind of CPU and of the compiler: a program may use instructions that another CPU lacks."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        about = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:  # another system
        about = [platform.processor(), platform.machine()]
    return hashlib.sha256("\n".join([*about, metadata.version("jaxlib")]).encode()).hexdigest()[:16]


# What XLA compiles, kept between runs of the tests; JAX names an entry by the program, its options and its devices.
XLA_CACHE = ROOT / ".pytest_cache" / "xla" / _this_cpu()

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # these two: so that JAX loads a GPU's compiler, where it is installed
os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(XLA_CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import ml_collections
import pytest

from gcn_jax import config as config_lib

# The files that take longest, in that order, by both sets: each goes as a whole to the next process that is free.
ORDER = (
    "test_decoders", "test_export_formats", "test_steps", "test_small_arrays", "test_models", "test_conv",
    "test_faults", "test_distributed", "test_example_scripts", "test_run", "test_network_crf", "test_inference",
    "test_bands", "test_crf", "test_plan", "test_inside", "test_optimizer", "test_configs", "test_ablations",
    "test_receptive_field", "test_batch_norm", "test_predict", "test_multi_label", "test_losses", "test_train",
    "test_outputs", "test_carry_over", "test_calibration", "test_images", "test_export", "test_twin", "test_rooms",
    "test_builders",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes long first, so that all processes end at about the same time."""
    places = {name: place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path.stem, len(ORDER)))


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file():
    """Lets go of what a file has compiled: the processes would hold 10 GB by the end."""
    yield
    jax.clear_caches()


@pytest.fixture
def real_data() -> pathlib.Path:
    """The folder of real data sets, where a checkout has one beside it."""
    if not REAL_DATA.is_dir():
        pytest.skip("needs the real data sets, which are not part of the project")
    return REAL_DATA


@pytest.fixture(scope="session")
def torchvision_models() -> types.ModuleType:
    """torchvision's models."""
    pytest.importorskip("torch", reason="needs PyTorch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    try:
        from torchvision import models
    except RuntimeError:  # its operators are built for another PyTorch, such as that for GPUs; ResNet needs none
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        declarations = "torchvision._meta_registrations"
        sys.modules[declarations] = types.ModuleType(declarations)
        from torchvision import models
    return models


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> pathlib.Path:
    """A folder for ``config.cache_dir``: its compiled programs are those of all tests.

    Not for runs that are killed: what one has half written stays.
    """
    folder = tmp_path_factory.mktemp("cache")
    XLA_CACHE.mkdir(parents=True, exist_ok=True)
    (folder / "xla").symlink_to(XLA_CACHE)
    return folder


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
