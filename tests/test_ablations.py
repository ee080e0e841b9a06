"""What the paper compares the GCN with: heads, backbones, and their parameters; configs that name them."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gcn_jax import config as config_lib
from gcn_jax.errors import UserError
from gcn_jax.models import build_model, init_variables
from gcn_jax.models.backbones.resnet import Bottleneck
from gcn_jax.models.heads import ConvStack, GlobalConv, score_head
from gcn_jax.models.layers import Conv, Norm
from gcn_jax.models.ops import xla
from gcn_jax.runtime.mesh import put_share, replicated
from tests.helpers import mesh_of, randomize, relative


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def head_of(kind, features=21, kernel_size=7, width=5, branches="sum"):
    return score_head(kind, features, kernel_size, width, branches, jnp.float32, "head")


def weights(module, channels):
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, channels)))["params"]
    flat = jax.tree_util.tree_leaves_with_path(params)
    return sum(int(np.prod(leaf.shape)) for path, leaf in flat if path[-1].key == "kernel")


@pytest.mark.parametrize(
    ("kind", "kernel_size", "width", "printed"),
    [
        *(("conv", k, 0, n) for k, n in ((3, 387), (5, 1075), (7, 2107), (9, 3484))),  # table 2
        *(("gcn", k, 0, n) for k, n in ((3, 260), (5, 434), (7, 608), (9, 782))),
        *(("stack3x3", 7, m, n) for m, n in ((2048, 75885), (1024, 28505), (210, 4307))),  # table 4
    ],
)
def test_parameters_after_res5_are_the_papers(kind, kernel_size, width, printed):
    """Thousands, cut in table 2 (2 k (2048 * 21 + 21^2) is 260.4, k^2 2048 * 21 is 3483.6), rounded in others."""
    count = weights(head_of(kind, 21, kernel_size, width), 2048)
    assert printed in (count // 1000, round(count / 1000))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seen"), [("conv1x1", 1), ("conv", 7), ("stack3x3", 7), ("gcn", 7)])
def test_a_head_is_linear_and_sees_k_by_k_pixels(kind, seen):
    head, x = head_of(kind, features=2), normal(1, 15, 15, 3)
    variables = head.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: head.apply(variables, x)[0, 7, 7].sum()))
    field = np.argwhere(np.abs(gradient(x)[0]).sum(-1) > 0)
    assert len(field) == seen**2
    assert (field.min(0).tolist(), field.max(0).tolist()) == ([7 - seen // 2] * 2, [7 + seen // 2] * 2)
    np.testing.assert_allclose(gradient(x), gradient(2 * x), rtol=1e-6)


@pytest.mark.parametrize("kind", ["conv1x1", "conv", "stack3x3", "gcn"])
def test_a_head_is_pytorchs_convolutions(kind):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    head, x = head_of(kind, features=4, branches="concat"), normal(2, 6, 9, 3)
    variables = randomize(head.init(jax.random.key(0), x))
    params = variables["params"]

    def conv(y, layer):
        kernel = np.asarray(layer["kernel"]).transpose(3, 2, 0, 1)
        return torch.nn.functional.conv2d(
            y, torch.from_numpy(kernel.copy()), torch.from_numpy(np.array(layer["bias"])), padding="same"
        )

    y = torch.from_numpy(x.transpose(0, 3, 1, 2))
    if kind == "gcn":
        left = conv(conv(y, params["left_column"]), params["left_row"])
        right = conv(conv(y, params["right_row"]), params["right_column"])
        y = conv(torch.cat([left, right], dim=1), params["projection"])
    else:
        for layer in [params] if "kernel" in params else [params[f"conv{i}"] for i in (1, 2, 3)]:
            y = conv(y, layer)
    assert relative(jax.jit(head.apply)(variables, x), y.numpy().transpose(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize("kind", ["strips", "strip_attention"])
def test_a_head_of_later_work_is_pytorchs(kind):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    head, x = head_of(kind, features=4, kernel_size=9), normal(2, 6, 11, 3)
    params = randomize(head.init(jax.random.key(0), x))["params"]

    def conv(y, name):
        kernel = np.asarray(params[name]["kernel"])
        groups = 3 if name.startswith(("square", "row", "column")) and kind == "strip_attention" else 1
        kernel, bias = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()), torch.from_numpy(params[name]["bias"])
        return torch.nn.functional.conv2d(y, kernel, bias, padding="same", groups=groups)

    y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    if kind == "strips":
        assert {name: params[name]["kernel"].shape[:2] for name in ("column", "row")} == {
            "column": (9, 5),
            "row": (5, 9),
        }
        y = conv(y, "reduce")
        expected = sum(conv(y, name) for name in ("column", "row", "square"))
    else:
        near = conv(y, "square")
        pairs = [conv(conv(near, f"row{k}"), f"column{k}") for k in (7, 11, 21)]
        assert params["column21"]["kernel"].shape == (21, 1, 1, 3)
        expected = conv(conv(near + sum(pairs), "mix") * y, "score")
    assert relative(jax.jit(head.apply)({"params": params}, x), expected.numpy().transpose(0, 2, 3, 1)) < 1e-5


def test_concatenated_branches_projected_by_ones_are_their_sum():
    x, sum_of, concat = normal(1, 6, 6, 3), GlobalConv(2, 5), GlobalConv(2, 5, "concat")
    variables = sum_of.init(jax.random.key(0), x)
    twice = np.concatenate([np.eye(2), np.eye(2)]).astype(np.float32)[None, None]
    projected = {"params": {**variables["params"], "projection": {"kernel": twice, "bias": np.zeros(2)}}}
    np.testing.assert_allclose(concat.apply(projected, x), sum_of.apply(variables, x), rtol=1e-5, atol=1e-6)


def multiply_adds(backbone, size=224):
    """Of all convolutions of a backbone, without those by padding, as XLA counts them."""
    total = 0

    def inside(length, taps, stride):
        first = np.arange(0, length, stride)[:, None] - taps // 2 + np.arange(taps)
        return int(((first >= 0) & (first < length)).sum())

    def note(call, args, kwargs, context):
        nonlocal total
        if isinstance(context.module, Conv) and context.method_name == "__call__":
            conv, (_, height, width, channels) = context.module, args[0].shape
            strides = (conv.stride,) * 2 if isinstance(conv.stride, int) else conv.stride
            rows, columns = map(inside, (height, width), conv.kernel_size, strides)
            total += rows * columns * channels * conv.features
        return call(*args, **kwargs)

    resnet = build_model(backbone=backbone, strides_in="v1").backbone
    with nn.intercept_methods(note):
        jax.eval_shape(resnet.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return total


@pytest.mark.slow
def test_resnet50_gcn_costs_what_resnet50_does():
    """Table 11: 3700 MFLOPs both; figure 5's bottlenecks have within 1% of the original's parameters."""
    assert multiply_adds("resnet50") == pytest.approx(3700e6, rel=0.02)
    assert multiply_adds("resnet50_gcn") == pytest.approx(3700e6, rel=0.02)
    blocks = {}
    for backbone in ("resnet50", "resnet50_gcn"):
        model = build_model(backbone=backbone)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]["backbone"]
        count = {name: sum(x.size for k, x in _flat(block) if k == "kernel") for name, block in shapes.items()}
        blocks[backbone] = count
    original, gcn = blocks.values()
    assert original.keys() == gcn.keys()
    for name, count in gcn.items():
        if name.startswith(("res4", "res5")) and not name.endswith("block1"):
            assert 0 < abs(count / original[name] - 1) < 0.01, name
        elif not name.startswith(("res4", "res5")):
            assert count == original[name], name


def _flat(tree):
    return [(path[-1].key, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_xla_counts_resnet50_alike():
    resnet = build_model(backbone="resnet50", strides_in="v1").backbone
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(resnet.init, jax.random.key(0), image)
    traced = jax.jit(resnet.apply).trace(variables, image)
    flops = traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"]  # a CPU's formulation needs fewer
    assert multiply_adds("resnet50") == pytest.approx(flops / 2, rel=0.02)


@pytest.mark.slow
def test_a_global_conv_bottleneck_on_a_mesh():
    """Eight rows over four devices, halved by strides along each axis: values and gradients of one device."""
    options = {"strides_in": "v1.5", "norm": functools.partial(Norm, "frozen"), "dtype": jnp.float32}
    block = Bottleneck(width=4, stride=2, project=True, global_conv=(5, 6), **options)
    x = normal(2, 8, 8, 8)
    variables = randomize(block.init(jax.random.key(0), x, False))

    def gradients(params, x):
        def loss(params):
            return jnp.sum(jnp.sin(block.apply({**variables, "params": params}, x, False)))

        return jax.value_and_grad(loss)(params)

    config = config_lib.default()
    config.mesh.update(data=2, space=4)
    mesh = mesh_of(config)
    # The partition is tested; to optimise the program within would take half of the time.
    on_mesh = jax.jit(gradients, compiler_options={"xla_backend_optimization_level": 0})
    with xla.platform("cpu"):
        expected = jax.jit(gradients)(variables["params"], x)
        found = on_mesh(jax.device_put(variables["params"], replicated(mesh)), put_share(x, mesh))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


def test_every_head_scores_whole_images_with_and_without_refinement():
    for head in ("conv1x1", "conv", "stack3x3"):
        for refine in (False, True):
            options = {"head": head, "boundary_refine": refine, "head_width": 4, "kernel_size": 5}
            model = build_model(3, "resnet14", width=4, **options)
            shape = jax.eval_shape(model.apply, init_variables(model, 0), jnp.zeros((1, 50, 70, 3)))
            assert shape.shape == (1, 50, 70, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head": "vgg"}, "head must be one of gcn, conv1x1, conv, stack3x3, strips, strip_attention. Got 'vgg'"),
        ({"head": "strips", "kernel_size": 3}, "kernel_size must be at least 5 with head='strips'. Got 3"),
        ({"head": "conv", "kernel_size": 4}, "kernel_size must be odd and positive. Got 4"),
        ({"head": "stack3x3", "kernel_size": 1}, "kernel_size must be at least 3 with head='stack3x3'. Got 1"),
        ({"branches": "mean"}, "branches must be one of sum, concat. Got 'mean'"),
        ({"head_width": 0}, "head_width must be positive. Got 0"),
        ({"freeze": "res6"}, "freeze must be one of stem, res2, res3, res4, res5. Got 'res6'"),
    ],
)
def test_a_wrong_choice_is_named(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build_model(**wrong)


def test_an_ablation_is_named_in_the_config():
    get_config = importlib.import_module("configs.voc").get_config
    model = get_config("ablation,head=stack3x3,k=7,m=210,br=false,backbone=resnet50_gcn").model
    assert (model.head, model.kernel_size, model.head_width) == ("stack3x3", 7, 210)
    assert (model.boundary_refine, model.branches, model.backbone) == (False, "sum", "resnet50_gcn")
    head = config_lib.model_from(get_config("ablation,head=stack3x3,k=7,m=210"))
    shapes = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]["stack3x3_res5"]
    assert sum(x.size for k, x in _flat(shapes) if k == "kernel") == weights(ConvStack(21, 7, 210), 2048)
    assert get_config("ablation").model.kernel_size == 15
    other = get_config("compare,decoder=pspnet,stride=16,aux=true").model
    assert (other.decoder, other.output_stride, other.auxiliary) == ("pspnet", 16, True)
    assert get_config("compare").model.boundary_refine
    assert get_config("ablation,br=true").model.boundary_refine
    for stage, message in (
        ("ablation,k=7,k=9", "'k=9': k was given before"),
        ("ablation,k=seven", "'k=seven': k must be a whole number"),
        ("ablation,br=no", "'br=no': br must be true or false"),
        ("compare,aux=no", "'aux=no': aux must be true or false"),
        ("compare,stride=low", "'stride=low': stride must be a whole number"),
        ("ablation,kernel=7", "'kernel=7' is unknown; known: head=, k=, m=, br=, branches=, backbone=, decoder="),
        ("ablation,", "'' is unknown"),
        ("ablations", "unknown stage; known: stage1, stage2, stage3, ablation, compare"),
    ):
        with pytest.raises(UserError, match=message) as error:
            get_config(stage)
        assert str(error.value).startswith(f"--config=configs/voc.py:{stage}: ")
