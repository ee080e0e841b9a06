"""What several test files share: the project's parts, made from a config; arrays; the PyTorch twin."""

import jax
import numpy as np
import pytest
import scipy.ndimage
from flax import traverse_util

from gcn_jax.config import settings
from gcn_jax.data.batches import TrainBatches
from gcn_jax.evaluation.evaluator import Evaluator
from gcn_jax.evaluation.result import as_json
from gcn_jax.inference.labeller import Labeller
from gcn_jax.models import init_variables
from gcn_jax.runtime.compilation import platform_jit
from gcn_jax.runtime.mesh import check_divides, local_mesh, make_mesh
from gcn_jax.training.step import init_state, make_train_step

# Of config.data: all random changes to an image beyond mirroring.
CHANGES = {
    "scale": (0.5, 2.0),
    "color_jitter": 0.3,
    "rotate": 30.0,
    "blur": 2.0,
    "noise": 10.0,
    "max_class_share": 0.7,
    "mix": "classmix",
    "mix_share": 0.5,
}


def mesh_of(config, devices=None):
    """The mesh of ``config.mesh``."""
    return make_mesh(config.mesh.data, config.mesh.space, devices)


def check_mesh(config, mesh):
    """`check_divides` for a config's batches and images."""
    check_divides(mesh, settings.batch_sizes(config), config.data.size)


def new_state(config, seed=0):
    """The state before the first step, with random weights."""
    recipe = settings.recipe(config)
    return init_state(init_variables(recipe.model, seed), recipe)


def jit_step(recipe, joined=False):
    """A training step for the devices at hand, which leaves the state it gets as it is."""
    return platform_jit(make_train_step(recipe, joined), "float32")


def train_batches(source, config, share=(0, 1)):
    """A config's training batches of a source."""
    return TrainBatches(
        source,
        settings.augmentation(config),
        settings.reading(config),
        batch_size=config.batch_size,
        num_batches=config.num_steps,
        seed=config.seed,
        share=share,
        rare_share=config.data.rare_share,
    )


def blocks(height, width, seed):
    """A label of large blocks, and an image whose first channel is ten times the label: misalignment shows."""
    rng = np.random.default_rng(seed)
    grid = rng.choice(np.array([*range(21), 255], np.uint8), (-(-height // 16), -(-width // 16)))
    label = grid.repeat(16, 0).repeat(16, 1)[:height, :width]
    image = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    image[..., 0] = np.where(label == 255, 250, 10 * label)
    return {"image": image, "label": label, "image_id": "x"}


def is_inside(label, radius):
    """Where the label is the same for so many pixels around, and the border is as far."""
    same = scipy.ndimage.minimum_filter(label, 2 * radius + 1) == scipy.ndimage.maximum_filter(label, 2 * radius + 1)
    same[:radius], same[-radius:], same[:, :radius], same[:, -radius:] = False, False, False, False
    return same


def assert_same_batches(batches, others):
    """Two series of batches, to the bit."""
    for batch, other in zip(batches, others, strict=True):
        assert batch["image_id"] == other["image_id"]
        np.testing.assert_array_equal(batch["image"], other["image"])
        np.testing.assert_array_equal(batch["label"], other["label"])


def labeller(model, config, mesh=None):
    """A network, applied by a config's protocol."""
    return Labeller(model, settings.preprocessing(config), settings.protocol(config), mesh)


def evaluator(source, mesh, config):
    """An evaluation of a config's model on this host's devices of a mesh."""
    applied = labeller(settings.model_from(config), config, local_mesh(mesh))
    reading, spec = settings.reading(config), settings.spec_from(config)
    return Evaluator(source, applied, spec, reading, config.eval.num_pictures)


def result_of(evaluation, config, step):
    """The content of ``eval.json``."""
    names = settings.spec_from(config).class_names
    return as_json(evaluation, step, config.data.eval, settings.protocol(config), names)


def randomize(variables, seed=0):
    """Values that leave nothing at 0 or 1, so that every tensor matters, and keep activations around 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape, np.float32)
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return noise * np.float32(1 / np.sqrt(fan_in)) if leaf.shape[0] != 4 else leaf + 0.05 * noise
        if name == "patterns":
            return leaf + 0.1 * noise
        return {"scale": 0.7 + 0.1 * noise, "var": 0.6 + 0.2 * noise**2, "bias": 0.1 * noise, "mean": 0.1 * noise}[name]

    return jax.tree_util.tree_map_with_path(draw, variables)


def relative(a, b):
    """The largest difference, to the largest value of `b`."""
    a, b = np.asarray(a), np.asarray(b)
    return np.abs(a - b).max() / np.abs(b).max()


def random_batch(batch_size, size=64):
    """Images and labels of noise, with void."""
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([0, 1, 2, 3, 4, 5, 255], np.uint8), (batch_size, size, size))
    image = rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)
    return {"image": image, "label": label}


def assert_equal(one, other):
    """Two trees of arrays, to the bit."""
    one, other = (traverse_util.flatten_dict(tree, sep="/") for tree in (one, other))
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name, strict=True)


def make_twin(sizes=(1, 1, 1, 1), width=4, v1=False, basic=False, output_stride=32):
    """PyTorch's ResNet, with a classifier, where nothing is left at 0 or 1."""
    torch = pytest.importorskip("torch")
    from bench import twin as twin_lib

    torch.manual_seed(0)
    block = twin_lib.BasicBlock if basic else twin_lib.Bottleneck
    resnet = twin_lib.ResNet(sizes, width, v1, block, output_stride).eval()
    resnet.fc = torch.nn.Linear(8 * block.expansion * width, 7)
    for name, tensor in resnet.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1:
            tensor.uniform_(-0.5, 0.5)
    return resnet
