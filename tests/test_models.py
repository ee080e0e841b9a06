"""The network's structure, and its numbers against an independent PyTorch twin."""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcn_jax import models
from gcn_jax.config import settings
from gcn_jax.models import build_model, init_variables, variable_shapes
from gcn_jax.models.decoders.gcn import BoundaryRefine
from gcn_jax.models.heads import GlobalConv
from gcn_jax.models.initial import with_zero_scores
from gcn_jax.models.layers import Conv, ConvTranspose, bilinear_kernel
from gcn_jax.models.ops import xla
from gcn_jax.models.ops.convolution import conv_transpose2d
from gcn_jax.training.loss import cross_entropy
from tests.helpers import randomize, relative

TINY = {"num_classes": 5, "backbone": "resnet26", "width": 8, "kernel_size": 5}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def modules_of(model, size=64):
    modules = {}

    def note(call, args, kwargs, context):
        modules[context.module.path] = context.module
        return call(*args, **kwargs)

    with flax.linen.intercept_methods(note):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return list(modules.values())


def test_figure_2_structure():
    modules = modules_of(build_model(backbone="resnet14", width=8))
    kinds = [type(module) for module in modules]
    assert kinds.count(BoundaryRefine) == 9
    assert kinds.count(ConvTranspose) == 5
    assert kinds.count(GlobalConv) == 4
    for module in modules:
        if isinstance(module, GlobalConv):
            convs = {m.name: m.kernel_size for m in modules if isinstance(m, Conv) and m.path[:-1] == module.path}
            assert convs == {"left_column": (15, 1), "left_row": (1, 15), "right_row": (1, 15), "right_column": (15, 1)}


@pytest.mark.parametrize(("k", "printed"), [(3, 260), (5, 434), (7, 608), (9, 782)])
def test_table_2_parameters_of_the_gcn_after_res5(k, printed):
    shapes = jax.eval_shape(GlobalConv(21, k).init, jax.random.key(0), jnp.zeros((1, 16, 16, 2048)))["params"]
    weights = sum(np.prod(conv["kernel"].shape) for conv in shapes.values())
    assert weights == 2 * k * (2048 * 21 + 21**2)
    assert int(weights / 1000) == printed


def resnet_parameters(sizes):
    """From the ResNet paper's table 1: weights of all convolutions, scale and bias of all norms."""
    total, cin = 7 * 7 * 3 * 64 + 2 * 64, 64
    for i, n in enumerate(sizes):
        w = 64 * 2**i
        for j in range(n):
            total += cin * w + 9 * w * w + 4 * w * w + 2 * (w + w + 4 * w)
            total += cin * 4 * w + 2 * 4 * w if j == 0 else 0
            cin = 4 * w
    return total


@pytest.mark.parametrize(
    ("backbone", "sizes", "published"),
    # torchvision's counts, less its 1000-class layer of 2,049,000.
    [
        ("resnet50", (3, 4, 6, 3), 25_557_032 - 2_049_000),
        ("resnet101", (3, 4, 23, 3), 44_549_160 - 2_049_000),
        ("resnet152", (3, 8, 36, 3), 60_192_808 - 2_049_000),
    ],
)
def test_total_parameters_at_21_classes_and_k_15(backbone, sizes, published):
    shapes = jax.eval_shape(build_model(backbone=backbone).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    assert count(shapes["backbone"]) == resnet_parameters(sizes) == published
    heads = sum(2 * 15 * (c * 21 + 21 * 21) + 4 * 21 for c in (256, 512, 1024, 2048))
    refines, deconvs = 9 * 2 * (9 * 21 * 21 + 21), 5 * 16 * 21 * 21
    assert count(shapes) == published + heads + refines + deconvs


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (97, 130)])
def test_logits_have_the_size_of_the_images(size):
    model = build_model(num_classes=3, backbone="resnet14", width=4, kernel_size=3)
    shape = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], jnp.zeros((2, *size, 3)))
    assert shape.shape == (2, *size, 3)
    assert shape.dtype == jnp.float32


def test_stage_features_have_the_papers_sizes():
    resnet = build_model().backbone
    shapes = jax.eval_shape(lambda x: resnet.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 512, 512, 3)))
    sizes = {name: leaf.shape[1:] for name, leaf in shapes.items()}
    assert sizes.pop("stem") == (128, 128, 64)
    assert sizes == {"res2": (128, 128, 256), "res3": (64, 64, 512), "res4": (32, 32, 1024), "res5": (16, 16, 2048)}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("kernel_size", 4),
        ("kernel_size", -1),
        ("backbone", "vgg16"),
        ("norm", "x"),
        ("dtype", "int8"),
        ("num_classes", 1),
        ("convolutions", "slow"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} .*Got '?{value}"):
        build_model(**{argument: value})


def test_images_too_small_or_of_the_wrong_rank_are_refused():
    model = build_model(num_classes=3, backbone="resnet14", width=4)
    for shape in ((1, 31, 64, 3), (64, 64, 3), (1, 64, 64, 4)):
        with pytest.raises(ValueError, match="images must be"):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.slow
def test_numpy_initialisation_is_that_of_model_init():
    model = build_model(**{**TINY, "backbone": "resnet14"})
    ours = init_variables(model, 0)
    with xla.platform("cpu"):
        flax_own = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, flax_own)
    flat, flat_own = (flax.traverse_util.flatten_dict(tree) for tree in (ours, flax_own))
    for path, value in flat.items():
        own = np.asarray(flat_own[path])
        if path[-1] == "kernel" and not path[1].startswith("up_") and own.any():
            if own.size > 2000:
                np.testing.assert_allclose(value.std(), own.std(), rtol=0.1)
        else:
            np.testing.assert_array_equal(value, own)
    again = init_variables(model, 0)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, again))
    other = init_variables(model, 1)
    assert not np.array_equal(
        ours["params"]["backbone"]["conv1"]["kernel"], other["params"]["backbone"]["conv1"]["kernel"]
    )


def test_deconvolution_starts_as_bilinear_interpolation():
    x = np.random.default_rng(0).standard_normal((1, 6, 7, 3)).astype(np.float32)
    doubled = conv_transpose2d(jnp.asarray(x), jnp.asarray(bilinear_kernel(3)))
    reference = jax.image.resize(x, (1, 12, 14, 3), "bilinear")
    np.testing.assert_allclose(doubled[:, 1:-1, 1:-1], reference[:, 1:-1, 1:-1], atol=1e-6)


def test_boundary_refine_starts_as_the_identity():
    scores = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 8, 4)), jnp.float32)
    module = BoundaryRefine()
    np.testing.assert_array_equal(module.apply(jax.jit(module.init)(jax.random.key(0), scores), scores), scores)


def test_global_conv_sees_k_by_k_pixels():
    module, x = GlobalConv(2, 7), jnp.zeros((1, 21, 21, 3))
    variables = jax.jit(module.init)(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: module.apply(variables, x)[0, 10, 10].sum()))(x)
    seen = np.argwhere(np.abs(gradient[0]).sum(-1) > 0)
    assert seen.min(0).tolist() == [7, 7]
    assert seen.max(0).tolist() == [13, 13]
    assert len(seen) == 49


@pytest.mark.slow
def test_remat_changes_nothing_but_memory():
    images = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    variables = randomize(init_variables(build_model(**TINY), 0))

    def loss(params, remat):
        model = build_model(**TINY, remat=remat)
        return model.apply({**variables, "params": params}, images, train=True).mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    with xla.platform("cpu"):
        plain, again = (gradient(variables["params"], remat) for remat in (False, True))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-6), plain, again))


def with_gradients(**changes):
    """The logits and gradients of a model of `changes`, as a function of parameters and images, and its variables.

    It is wide enough for every form of a convolution.
    """
    model = build_model(**{"num_classes": 5, "backbone": "resnet14", "width": 32, "kernel_size": 7, **changes})
    variables = randomize(init_variables(model, 0))

    def apply(params, images):
        def loss(params):
            logits = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])[0]
            return jnp.square(logits).mean(), logits

        gradients, logits = jax.grad(loss, has_aux=True)(params)
        return logits, gradients

    return apply, variables["params"]


IMAGES = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"remat": True, "backbone": "resnet50_gcn", "width": 8}])
def test_plain_convolutions_compute_the_same(changes):
    results = []
    for convolutions in ("fast", "plain"):
        apply, params = with_gradients(**changes, convolutions=convolutions)
        with xla.platform("cpu"):
            results.append(jax.jit(apply)(params, IMAGES))
    for fast, plain in zip(*map(jax.tree.leaves, results), strict=True):
        assert relative(fast, plain) < 1e-4


@pytest.mark.parametrize("changes", [{}, {"remat": True, "dtype": "bfloat16"}, {"norm": "train", "head": "conv"}])
def test_plain_convolutions_are_xlas_on_every_platform(changes):
    apply, params = with_gradients(**changes, convolutions="plain")
    texts = set()
    for platform, lowered_for in ((None, "cpu"), (None, "tpu"), ("cpu", "cpu"), ("tpu", "tpu"), ("gpu", "cuda")):
        with xla.platform(platform):
            lowered = jax.jit(apply).trace(params, IMAGES).lower(lowering_platforms=(lowered_for,))
        texts.add(re.sub("mhlo.num_partitions = .*", "", lowered.as_text()))
    assert len(texts) == 1
    text = texts.pop()
    convs = 1 + 4 * 4 + 4 * (1 if "head" in changes else 4) + 9 * 2 + 5
    assert len(re.findall(r"stablehlo\.convolution", text)) >= 3 * convs - 1, "each, and its two gradients"
    assert "stablehlo.dot_general" not in text
    assert "stablehlo.case" not in text
    assert ("optimization_barrier" in text) == ("remat" in changes), "those of remat alone"


@pytest.mark.slow
def test_a_trace_of_other_convolutions_is_not_used_again():
    """Whatever was traced before in this process, by the model's argument and by the context."""

    def products(apply, params):
        return str(jax.make_jaxpr(apply)(params, IMAGES)).count("dot_general")

    counts = [products(*with_gradients(convolutions=c)) for c in ("fast", "plain", "fast", "plain")]
    assert counts[0] == counts[2] > 0 == counts[1] == counts[3]
    kernel = jnp.ones((4, 4, 3, 3))
    jitted = jax.jit(jax.grad(lambda x: jnp.square(conv_transpose2d(x, kernel)).sum()))
    x, texts = jnp.ones((1, 8, 8, 3)), []
    for convolutions in ("fast", "plain", "fast"):
        with xla.convolutions(convolutions):
            texts.append(jitted.lower(x).as_text())
    assert texts[0] == texts[2] != texts[1]


COPIED = """
import builtins, importlib, pkgutil, sys
sys.path.insert(0, {folder!r})
allowed = {{"net", "jax", "jaxlib", "flax", "numpy", *sys.stdlib_module_names}}
asked = set()
original = builtins.__import__
def checked(name, globals=None, locals=None, fromlist=(), level=0):
    top, importer = name.partition(".")[0], (globals or {{}}).get("__name__", "")
    if level == 0 and (top == "gcn_jax" or (importer.partition(".")[0] == "net" and top not in allowed)):
        raise ImportError(f"{{importer}} imports {{name}}")
    asked.add(importer)
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = checked
import net
for module in pkgutil.walk_packages(net.__path__, "net."):
    importlib.import_module(module.name)
assert {{"net", "net.preprocessing", "net.ops.xla"}} <= asked
assert not any(name.partition(".")[0] == "gcn_jax" for name in sys.modules)
import jax, numpy as np
model = net.build_model(**{arguments!r})
images = np.load({images!r})
np.save({logits!r}, jax.jit(model.apply)(net.init_variables(model, 0), images))
"""


def test_the_folder_works_when_copied_elsewhere(tmp_path):
    """In a process where its modules can import nothing but jax, flax and numpy; what these import is theirs."""
    shutil.copytree(
        pathlib.Path(models.__file__).parent, tmp_path / "net", ignore=shutil.ignore_patterns("__pycache__")
    )
    np.save(tmp_path / "images.npy", IMAGES)
    files = {"images": str(tmp_path / "images.npy"), "logits": str(tmp_path / "logits.npy")}
    script = COPIED.format(folder=str(tmp_path), arguments=TINY, **files)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    model = build_model(**TINY)
    expected = jax.jit(model.apply)(init_variables(model, 0), IMAGES)
    assert expected.shape == (1, 64, 96, 5)
    np.testing.assert_array_equal(np.load(files["logits"]), expected)


def test_bfloat16_computes_in_it_and_returns_float32():
    images = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    variables = randomize(init_variables(build_model(**TINY), 0))
    exact = jax.jit(build_model(**TINY).apply)(variables, images)
    rounded = jax.jit(build_model(**TINY, dtype="bfloat16").apply)(variables, images)
    assert rounded.dtype == jnp.float32
    assert 1e-4 < relative(rounded, exact) < 0.1


def test_train_norm_uses_and_follows_the_batchs_statistics():
    model = build_model(**TINY, norm="train")
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    variables = init_variables(model, 0)

    @functools.partial(jax.jit, static_argnums=0)
    def apply(model, variables):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    _, updated = apply(model, variables)
    stem = variables["params"]["backbone"]["conv1"]["kernel"]
    activations = jax.lax.conv_general_dilated(
        images, stem, (2, 2), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = updated["batch_stats"]["backbone"]["norm1"]
    np.testing.assert_allclose(found["mean"], 0.1 * np.mean(activations, (0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * np.var(activations, (0, 1, 2)), rtol=1e-4)
    frozen = build_model(**TINY, norm="frozen")
    _, unchanged = apply(frozen, variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, unchanged["batch_stats"], variables["batch_stats"]))


@pytest.fixture(params=["v1.5", pytest.param("v1", marks=pytest.mark.slow)])
def twins(request):
    """Our model and the PyTorch twin with the same random weights."""
    torch = pytest.importorskip("torch", reason="the parity tests compare with PyTorch")
    from bench import twin as twin_lib

    torch.set_num_threads(2)
    model = build_model(**TINY, strides_in=request.param)
    variables = randomize(init_variables(model, 0))
    twin = twin_lib.Twin(5, (2, 2, 2, 2), 8, 5, v1=request.param == "v1").eval()
    return model, variables, twin, twin_lib.load(twin, variables, (2, 2, 2, 2))


@pytest.mark.parametrize("size", [(97, 130), (128, 128)])
def test_logits_equal_the_twins(twins, size):
    import torch

    model, variables, twin, _ = twins
    images = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert relative(jax.jit(model.apply)(variables, images), expected) < 1e-4


def test_gradients_and_three_sgd_steps_equal_the_twins(twins):
    import torch

    from bench import twin as twin_lib
    from gcn_jax import config as config_lib
    from gcn_jax.training.optimizer import make_optimizer

    model, variables, twin, names = twins
    config = config_lib.default()
    config.num_steps = 3
    config.optimizer.learning_rate = rate = 1e-2
    rng = np.random.default_rng(2)
    batches = [
        (rng.standard_normal((2, 97, 130, 3)).astype(np.float32), rng.choice([0, 1, 2, 3, 4, 255], (2, 97, 130)))
        for _ in range(3)
    ]

    @jax.jit
    def loss_and_grad(params, images, label):
        def loss(params):
            return cross_entropy(model.apply({**variables, "params": params}, images, train=True), label)

        return jax.value_and_grad(loss)(params)

    optimizer = make_optimizer(settings.solver(config))

    @jax.jit
    def updated(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.asarray, variables["params"])
    opt_state = optimizer.init(params)
    solver = torch.optim.SGD(twin.parameters(), lr=rate, momentum=0.99, weight_decay=5e-4)
    for i, (images, label) in enumerate(batches):
        loss, grads = loss_and_grad(params, images, label.astype(np.uint8))
        params, opt_state = updated(params, opt_state, grads)

        solver.zero_grad()
        logits = twin(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(label), ignore_index=255)
        expected.backward()
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-4)
        if i == 0:
            theirs = {name: p.grad for name, p in twin.named_parameters()}
            for name, grad in twin_lib.flatten({"params": grads, "batch_stats": {}}).items():
                assert relative(twin_lib.to_torch(name, grad), theirs[names[name]]) < 1e-3, name
        solver.step()
    theirs = dict(twin.named_parameters())
    for name, value in twin_lib.flatten({"params": params, "batch_stats": {}}).items():
        assert relative(twin_lib.to_torch(name, value), theirs[names[name]].detach()) < 1e-4, name


@pytest.mark.parametrize(
    ("head", "branches"),
    [
        ("gcn", "sum"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("gcn", "concat"), ("conv1x1", "sum"))),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("conv", "sum"), ("stack3x3", "sum"))),
        *(pytest.param(name, "sum", marks=pytest.mark.slow) for name in ("strips", "strip_attention")),
    ],
)
def test_heads_can_start_at_scores_of_zero(head, branches):
    model = build_model(5, "resnet14", 5, width=4, head=head, head_width=6, branches=branches)
    variables = init_variables(model, 0)
    silent = {**variables, "params": with_zero_scores(variables["params"])}
    images = 100 * jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    assert jnp.abs(jax.jit(model.apply)(variables, images)).max() > 1
    assert not jnp.abs(jax.jit(model.apply)(silent, images)).any()


def test_the_stem_may_have_a_width_of_its_own():
    shapes = variable_shapes(build_model(2, "resnet14", 3, width=4, stem_width=8))["params"]["backbone"]
    assert shapes["conv1"]["kernel"].shape == (7, 7, 3, 8)
    assert shapes["res2_block1"]["conv1"]["kernel"].shape == (1, 1, 8, 4)
    assert shapes["res3_block1"]["conv1"]["kernel"].shape == (1, 1, 16, 8)
    with pytest.raises(ValueError, match="stem_width must be positive"):
        build_model(2, stem_width=-1)


@pytest.mark.parametrize("output_stride", [8, 32])
def test_features_of_the_stages_have_their_strides(output_stride):
    model = build_model(**TINY, decoder="aspp", output_stride=output_stride)
    apply = functools.partial(model.apply, method="features")
    features = jax.eval_shape(apply, variable_shapes(model), jnp.zeros((1, 50, 70, 3)))
    strides = {"stem": 4, "res2": 4, "res3": 8, "res4": min(16, output_stride), "res5": output_stride}
    sizes = {stage: (1, -(-50 // stride), -(-70 // stride)) for stage, stride in strides.items()}
    assert {stage: maps.shape[:3] for stage, maps in features.items()} == sizes
    with pytest.raises(ValueError, match="at least 32"):
        jax.eval_shape(apply, variable_shapes(model), jnp.zeros((1, 31, 70, 3)))


@pytest.mark.slow
def test_features_of_the_stages_are_those_that_are_scored():
    model = build_model(5, "resnet14", decoder="aspp", output_stride=32, width=4)
    variables = randomize(init_variables(model, seed=0))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 48, 3)), jnp.float32)
    features = model.apply(variables, images, method="features")
    params = {name: value for name, value in variables["params"].items() if name != "backbone"}
    scores = model.decoder.apply({"params": params}, features, (32, 48))
    assert relative(scores, model.apply(variables, images)) < 1e-6
