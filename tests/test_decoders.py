"""The decoders of related work: against PyTorch, by their numbers of parameters, and by closed forms."""

import functools
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

import gcn_jax
from gcn_jax.checkpoints import model_file, saved_config
from gcn_jax.checkpoints.carry_over import carry_over
from gcn_jax.config import settings
from gcn_jax.config.checks import validate
from gcn_jax.data.transforms import pad
from gcn_jax.errors import UserError
from gcn_jax.models import DECODERS, build_model, init_variables, variable_shapes
from gcn_jax.models.decoders.dilated import LARGE, ContextModule
from gcn_jax.models.initial import with_zero_scores
from gcn_jax.models.ops import xla
from gcn_jax.models.ops.dilated import dilated_conv2d
from gcn_jax.models.ops.sampling import max_around, overlap_add, pool_to_bins, rescaled, resize, unpool
from gcn_jax.models.preprocessing import normalize
from gcn_jax.runtime.mesh import make_mesh, replicated
from gcn_jax.training.batch_norm import reestimate_statistics
from gcn_jax.training.loss import cross_entropy
from gcn_jax.training.optimizer import split_fixed
from gcn_jax.training.step import make_loss
from tests import command_line
from tests.helpers import make_twin, random_batch, randomize, relative

OTHERS = tuple(name for name in DECODERS if name != "gcn")
CHANNELS = {"stem": 4, "res2": 16, "res3": 32, "res4": 64, "res5": 128}  # of a backbone of width 4


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def size_of(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def features_of(model, size, batch=2):
    """Random features of the stages' sizes, positive like those after a ReLU; each image's are larger than the last's.

    Batch norm of the two images' means would else divide rounding errors by a variance of almost 0.
    """
    strides = {"stem": 4, "res2": 4}
    for stage, stride in (("res3", 8), ("res4", 16), ("res5", 32)):
        strides[stage] = min(stride, model.backbone.output_stride)
    shapes = {name: (batch, *(-(-side // strides[name]) for side in size), c) for name, c in CHANNELS.items()}
    larger = np.arange(1, batch + 1, dtype=np.float32)[:, None, None, None]
    return {name: larger * np.abs(normal(*shape, seed=i)) for i, (name, shape) in enumerate(shapes.items())}


def torch_name(path):
    """Our path of a variable as PyTorch's name."""
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    return ".".join((*path[:-1], leaves.get(path[-1], path[-1])))


def to_torch(array):
    import torch

    array = np.asarray(array)
    return torch.from_numpy(np.array(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))


def twin_of(name, variables, *options):
    """PyTorch's decoder with our weights."""
    from tests import torch_decoders

    twin = torch_decoders.make(name, 5, CHANNELS, *options)
    flat = {k: v for kind in variables.values() for k, v in flax.traverse_util.flatten_dict(kind).items()}
    result = twin.load_state_dict({torch_name(path): to_torch(v) for path, v in flat.items()}, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys), result.missing_keys
    return twin


def decoder_with_weights(name, norm="frozen"):
    model = build_model(5, "resnet14", width=4, decoder=name, norm=norm)
    variables = randomize(init_variables(model, 0))
    return model, {kind: {k: v for k, v in tree.items() if k != "backbone"} for kind, tree in variables.items()}


def compare_with_torch(name, size, norm="frozen"):
    """Logits, and gradients with respect to all parameters and features."""
    torch = pytest.importorskip("torch", reason="the parity tests compare with PyTorch")
    model, variables = decoder_with_weights(name, norm)
    features, target = features_of(model, size), normal(2, *size, 5, seed=9)

    def loss(params, features):
        scores = model.decoder.apply({**variables, "params": params}, features, size, True, mutable=["batch_stats"])[0]
        return (scores * target).mean(), scores

    with xla.platform("cpu"):
        grads, scores = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], features)
    twin = twin_of(name, variables).train(norm == "train")
    theirs = {
        key: torch.from_numpy(value.transpose(0, 3, 1, 2).copy()).requires_grad_() for key, value in features.items()
    }
    expected = twin(theirs, size)
    (expected * torch.from_numpy(target.transpose(0, 3, 1, 2).copy())).mean().backward()
    assert relative(scores, expected.detach().numpy().transpose(0, 2, 3, 1)) < 1e-4
    named = dict(twin.named_parameters())
    for path, value in flax.traverse_util.flatten_dict(grads[0]).items():
        if path[0].startswith("auxiliary_"):  # of training alone: see the test of their scores
            continue
        assert np.abs(value).max() > 0, path
        assert relative(to_torch(value).numpy(), named[torch_name(path)].grad.numpy()) < 1e-3, path
    for key, value in grads[1].items():
        gradient = theirs[key].grad
        if gradient is None or not gradient.any():
            assert not value.any(), key
        else:
            assert relative(value, gradient.numpy().transpose(0, 2, 3, 1)) < 1e-3, key


@pytest.mark.parametrize("name", [n if n == "fcn8s" else pytest.param(n, marks=pytest.mark.slow) for n in OTHERS])
def test_scores_and_gradients_are_pytorchs_at_odd_sizes(name):
    compare_with_torch(name, (97, 130))


@pytest.mark.slow
def test_a_whole_network_at_stride_8_is_pytorchs(tmp_path):
    """Backbone and decoder, in the logits and the gradient of the first kernel; rates are twice those of stride 16."""
    torch = pytest.importorskip("torch", reason="the parity tests compare with PyTorch")
    resnet = make_twin((2, 2, 2, 2), output_stride=8)
    np.savez(tmp_path / "resnet.npz", **{name: tensor.numpy() for name, tensor in resnet.state_dict().items()})
    model = build_model(5, "resnet26", width=4, decoder="deeplabv3plus", output_stride=8)
    variables = gcn_jax.load_backbone(randomize(init_variables(model, 0)), tmp_path / "resnet.npz")
    own = {kind: {k: v for k, v in tree.items() if k != "backbone"} for kind, tree in variables.items()}
    decoder, images = twin_of("deeplabv3plus", own, 2).eval(), normal(1, 97, 130, 3)

    def loss(params):
        logits = model.apply({**variables, "params": params}, images)
        return jnp.square(logits).mean(), logits

    with xla.platform("cpu"):
        gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    stages = resnet(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = decoder(dict(zip(("res2", "res3", "res4", "res5"), stages, strict=True)), (97, 130))
    expected.square().mean().backward()
    assert relative(logits, expected.detach().numpy().transpose(0, 2, 3, 1)) < 1e-4
    found = to_torch(gradient["backbone"]["conv1"]["kernel"]).numpy()
    assert relative(found, resnet.conv1.weight.grad.numpy()) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn", "segnet", "pspnet", "zoomout", "deeplabv3plus"])
def test_norms_of_the_batch_are_pytorchs(name):
    """The same with the batch's statistics, two images of sides that the bins divide."""
    compare_with_torch(name, (96, 128), norm="train")


def own_of(variables):
    """Those of the decoder, without the backbone's and the second head's."""
    others = ("backbone", "auxiliary")
    return {kind: {k: v for k, v in tree.items() if k not in others} for kind, tree in variables.items()}


def test_a_decoders_own_norm_is_pytorchs_and_the_backbone_keeps_its_statistics():
    """Two batches of training, each with its own statistics, which running ones follow; then these are used."""
    torch = pytest.importorskip("torch", reason="the parity tests compare with PyTorch")
    model = build_model(5, "resnet14", width=4, decoder="fcn", output_stride=32, decoder_norm="train", auxiliary=True)
    start = variables = randomize(init_variables(model, 0))
    twin = twin_of("fcn", own_of(variables)).train()
    running = {kind: value.clone() for kind, value in twin.reduce.norm.named_buffers()}
    inputs = []
    twin.reduce.norm.register_forward_hook(lambda module, given, output: inputs.append(given[0]))

    @functools.partial(jax.jit, static_argnums=2)
    def apply(variables, images, train):
        logits, updated = model.apply(variables, images, train, mutable=["batch_stats"])
        return logits, {**variables, **updated}, model.apply(variables, images, train, method="features")

    def check(images, train):
        with xla.platform("cpu"):
            logits, updated, features = apply(variables, images, train)
        theirs = {key: torch.from_numpy(np.array(value.transpose(0, 3, 1, 2))) for key, value in features.items()}
        expected = twin(theirs, images.shape[1:3]).detach().numpy().transpose(0, 2, 3, 1)
        assert relative(logits, expected) < 1e-4
        return updated

    for i in range(2):
        variables = check((i + 1) * normal(2, 64, 96, 3, seed=i) + i, True)
        moments = {"mean": inputs[i].mean((0, 2, 3)), "var": inputs[i].var((0, 2, 3), correction=0)}
        for kind, value in moments.items():
            running[f"running_{kind}"] = 0.9 * running[f"running_{kind}"] + 0.1 * value.detach()
            found = variables["batch_stats"]["reduce"]["norm"][kind]
            np.testing.assert_allclose(found, running[f"running_{kind}"], rtol=1e-4, atol=1e-5)
    twin.reduce.norm.running_var.copy_(running["running_var"])  # PyTorch's divides by one value less
    twin.eval()
    assert jax.tree.all(jax.tree.map(np.array_equal, check(normal(2, 64, 96, 3), False), variables))
    stats = variables["batch_stats"]
    assert jax.tree.all(jax.tree.map(np.array_equal, stats["backbone"], start["batch_stats"]["backbone"]))
    assert not np.array_equal(
        stats["auxiliary"]["reduce"]["norm"]["mean"], start["batch_stats"]["auxiliary"]["reduce"]["norm"]["mean"]
    )


@pytest.mark.slow
def test_a_decoder_can_be_frozen_beside_a_backbone_that_follows_the_batch():
    model = build_model(5, "resnet14", width=4, decoder="segnet", norm="train", decoder_norm="frozen")
    variables = randomize(init_variables(model, 0))
    with xla.platform("cpu"):
        train = jax.jit(lambda v, x: model.apply(v, x, True, mutable=["batch_stats"])[1]["batch_stats"])
        found = train(variables, normal(2, 64, 64, 3))
    before = variables["batch_stats"]
    assert jax.tree.all(jax.tree.map(np.array_equal, own_of({"a": found}), own_of({"a": before})))
    assert not np.array_equal(found["backbone"]["norm1"]["mean"], before["backbone"]["norm1"]["mean"])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fcn8s", 21 * (512 + 1024 + 2048) + 3 * 21),
        ("fcn", 54_314_346 - 42_500_160 - 9 * 1024 * 256 - 2 * 256 - 21 * 257),  # torchvision's, less ResNet and aux
        ("dilated", 2048 * 21 + 21 + 64 * 21**2 + 8 * 21),
        ("aspp", 4 * (9 * 2048 * 21 + 21)),
        ("parsenet", 2 * 2048 + 4096 * 21 + 21),
        ("zoomout", 5952 * 1024 + 1024 * 1024 + 1024 * 21 + 2 * 1024 + 21 + 2 * 5952),
        ("lrr", 25 * 210 * (256 + 512 + 1024 + 3 * 2048) + 6 * 210),  # two of them of training alone
        ("pspnet", 4 * (2048 * 512 + 2 * 512) + 9 * 4096 * 512 + 2 * 512 + 512 * 21 + 21),
    ],
)
def test_parameters_follow_from_the_papers_layers(name, count):
    model = build_model(21, "resnet50", decoder=name)
    channels = {"stem": 64, "res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
    features = {key: jax.ShapeDtypeStruct((1, 8, 8, c), jnp.float32) for key, c in channels.items()}
    with xla.platform("cpu"):
        shapes = jax.eval_shape(lambda f: model.decoder.init(jax.random.key(0), f, (32, 32)), features)["params"]
    assert size_of(shapes) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"), [("refinenet", 75.6), ("deeplabv3plus", 16.8), ("dilated_large", 6.8), ("zoomout", 7.2)]
)
def test_parameters_are_the_published_ones(name, millions):
    shapes = variable_shapes(build_model(21, "resnet50", decoder=name))["params"]
    assert size_of(shapes) - size_of(shapes["backbone"]) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "count"), [("resnet50", 35_322_218), ("resnet101", 54_314_346)])
def test_fcn_with_its_second_head_has_torchvisions_parameters(backbone, count):
    shapes = variable_shapes(build_model(21, backbone, decoder="fcn", auxiliary=True))
    assert size_of(shapes["params"]) == count


@pytest.mark.parametrize(("length", "bins"), [(6, 3), (7, 3), (5, 6), (13, 6), (1, 2)])
def test_bins_are_means_from_floor_to_ceiling(length, bins):
    x = normal(1, length, length + 1, 2)
    found = pool_to_bins(jnp.asarray(x), bins)
    edges = [(i * length // bins, -(-(i + 1) * length // bins)) for i in range(bins)]
    others = [(i * (length + 1) // bins, -(-(i + 1) * (length + 1) // bins)) for i in range(bins)]
    for i, (top, bottom) in enumerate(edges):
        for j, (left, right) in enumerate(others):
            np.testing.assert_allclose(found[0, i, j], x[0, top:bottom, left:right].mean((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 14), (13, 9), (5, 7), (3, 2)])
def test_enlarging_is_bilinear_between_the_centres_of_pixels(size):
    x = normal(1, 6, 7, 2)
    expected = jax.image.resize(x, (1, *size, 2), "bilinear", antialias=False)
    np.testing.assert_allclose(resize(jnp.asarray(x), size), expected, atol=1e-5)


def test_the_maximum_around_a_pixel_is_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    x = normal(1, 7, 9, 2)
    expected = ndimage.maximum_filter(x, (1, 5, 5, 1), mode="constant", cval=-np.inf)
    np.testing.assert_array_equal(max_around(jnp.asarray(x), 5), expected)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_unpooling_the_maxima_gives_them_back_and_zeros(size):
    """Each 2 x 2 pixels keep their largest, the first of equals."""
    x = np.random.default_rng(0).permutation(size[0] * size[1] * 2).astype(np.float32).reshape(1, *size, 2) + 1
    x[0, :2, :2, 0] = 99  # four equal ones
    rows, columns = (-(-side // 2) for side in size)
    expected, largest = np.zeros_like(x), np.zeros((1, rows, columns, 2), np.float32)
    for i, j, c in np.ndindex(rows, columns, 2):
        tile = x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = np.unravel_index(tile.argmax(), tile.shape)
        largest[0, i, j, c] = expected[0, 2 * i + row, 2 * j + column, c] = tile.max()
    np.testing.assert_array_equal(unpool(jnp.asarray(largest), jnp.asarray(x)), expected)


@pytest.mark.parametrize("dilation", [2, 4, 5, 9, 12])
@pytest.mark.parametrize("convolutions", ["fast", "plain"])
def test_a_dilated_convolution_is_one_of_a_kernel_with_zeros_between(convolutions, dilation):
    """Also where some taps, or all but the middle, never meet the map; with its gradients."""
    x, kernel, dy = normal(1, 9, 11, 3), normal(3, 3, 3, 2, seed=1), normal(1, 9, 11, 2, seed=2)

    def spread_out(x, kernel):
        side = 2 * dilation + 1
        spread = jnp.zeros((side, side, 3, 2)).at[::dilation, ::dilation].set(kernel)
        around = ((dilation, dilation),) * 2
        return jax.lax.conv_general_dilated(x, spread, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    with xla.platform("cpu"), xla.convolutions(convolutions):
        found, pullback = jax.vjp(lambda x, kernel: dilated_conv2d(x, kernel, dilation), x, kernel)
        expected, expected_pullback = jax.vjp(spread_out, x, kernel)
        for a, b in zip((found, *pullback(dy)), (expected, *expected_pullback(dy)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_context_module_starts_by_passing_what_is_positive():
    x = normal(1, 8, 8, 4)
    context = ContextModule(4)
    with xla.platform("cpu"):
        found, variables = jax.jit(context.init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(found, np.maximum(x, 0), atol=1e-6)
    assert not any(np.any(layer["bias"]) for layer in variables["params"].values())


@pytest.mark.slow
def test_the_large_context_module_does_so_but_for_its_noise():
    x = normal(1, 8, 8, 4)
    with xla.platform("cpu"):
        found = jax.jit(ContextModule(4, LARGE).init_with_output)(jax.random.key(0), x)[0]
    assert 0 < relative(found, np.maximum(x, 0)) < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder": "pspnets"}, "decoder must be one of gcn, fcn32s, "),
        ({"decoder": "pspnet", "head": "conv1x1"}, "head and branches are of decoder='gcn', not of 'pspnet'"),
        ({"output_stride": 16}, "output_stride must be 32 or 0 with decoder='gcn'"),
        ({"output_stride": 4, "decoder": "fcn8s"}, "output_stride must be 8, 16 or 32"),
        ({"backbone": "resnet50_gcn", "decoder": "pspnet"}, "output_stride must be 32 with backbone='resnet50_gcn'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(5, **arguments)


def test_norms_of_a_single_value_are_refused():
    model = build_model(5, "resnet14", width=4, decoder="pspnet", norm="train")
    features = {key: jnp.zeros((1, 4, 4, c)) for key, c in CHANNELS.items()}

    def init(features):
        variables = model.decoder.init(jax.random.key(0), features, (32, 32))
        return model.decoder.apply(variables, features, (32, 32), True, mutable=["batch_stats"])

    with pytest.raises(ValueError, match="more than one value"):
        jax.eval_shape(init, features)


@pytest.mark.parametrize(("stride", "rows"), [(8, (16, 8, 8, 8)), (16, (16, 8, 4, 4)), (32, (16, 8, 4, 2))])
def test_output_stride_keeps_the_resolution(stride, rows):
    model = build_model(5, "resnet26", width=4, decoder="fcn8s", output_stride=stride)
    with xla.platform("cpu"):
        shapes = jax.eval_shape(
            lambda x: model.backbone.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 64, 64, 3))
        )
    assert tuple(shapes[f"res{i}"].shape[1] for i in (2, 3, 4, 5)) == rows


def test_scores_of_lrrs_levels_and_regions_are_pytorchs():
    torch = pytest.importorskip("torch", reason="the parity tests compare with PyTorch")
    model, variables = decoder_with_weights("lrr")
    features, size = features_of(model, (70, 97)), (70, 97)
    with xla.platform("cpu"):
        kept = jax.jit(lambda f: model.decoder.apply(variables, f, size, True, mutable=["auxiliary"])[1])(features)
    twin = twin_of("lrr", variables)
    twin({key: torch.from_numpy(value.transpose(0, 3, 1, 2).copy()) for key, value in features.items()}, size)
    found = (*kept["auxiliary"]["logits"], *kept["auxiliary"]["dilated"], *kept["auxiliary"]["eroded"])
    assert [x.shape[1:3] for x in found] == [(9, 13), (18, 25), (35, 49), (9, 13), (9, 13)]
    for ours, theirs in zip(found, twin.others, strict=True):
        assert relative(ours, theirs.detach().numpy().transpose(0, 2, 3, 1)) < 1e-4


def test_tiles_are_added_up_where_they_lie():
    tiles = normal(2, 3, 5, 8, 8, 2)
    expected = np.zeros((2, 16, 24, 2), np.float32)
    for i, j in np.ndindex(3, 5):
        expected[:, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8] += tiles[:, i, j]
    np.testing.assert_allclose(overlap_add(jnp.asarray(tiles)), expected[:, 2:-2, 2:-2], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OTHERS if name != "lrr"])  # which starts so
def test_scores_can_start_at_zero(name):
    _, variables = decoder_with_weights(name)
    model = build_model(5, "resnet14", width=4, decoder=name)
    variables = {**variables, "params": with_zero_scores(variables["params"])}
    features = features_of(model, (64, 64))
    with xla.platform("cpu"):
        scores = jax.jit(lambda f: model.decoder.apply(variables, f, (64, 64)))(features)
    biases = [leaf for path, leaf in flax.traverse_util.flatten_dict(variables["params"]).items() if path[-1] == "bias"]
    assert biases
    assert np.ptp(np.asarray(scores), axis=(0, 1, 2)).max() < 1e-5  # what is left are biases


def on_mesh(name, space, norm):
    """The loss and gradients of a decoder, its features' rows spread over some devices."""
    model, variables = decoder_with_weights(name, norm)
    mesh = make_mesh(1, space)
    # Without the batch's statistics one image is enough; in the first, rounding decides one of RefineNet's maxima.
    images = slice(None) if norm == "train" else slice(1, 2)
    features = {key: value[images] for key, value in features_of(model, (256, 64)).items()}
    rows = NamedSharding(mesh, PartitionSpec("data", "space"))
    target = jax.device_put(normal(2, 256, 64, 5, seed=9)[images], rows)
    stride = model.backbone.output_stride
    part = np.array([[0, 0, 160, 32], [40, 8, 256, 64]], np.int32)[images]  # of the pixels; the rest is padding
    told = {"inside": rescaled(jnp.asarray(part), (stride, stride), (1, 1))} if model.takes_inside else {}

    def loss(params, features):
        scores = model.decoder.apply(
            {**variables, "params": params}, {**features, **told}, (256, 64), True, mutable=["batch_stats"]
        )
        return (scores[0] * target).mean()

    options = {"xla_backend_optimization_level": 0} if space > 1 else {}
    features, params = jax.device_put(features, rows), jax.device_put(variables["params"], replicated(mesh))
    with xla.platform("cpu"):
        return jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=options)(params, features))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("parsenet", "frozen"),
        *(pytest.param(name, "frozen", marks=pytest.mark.slow) for name in OTHERS if name != "parsenet"),
        *(pytest.param(name, "train", marks=pytest.mark.slow) for name in ("pspnet", "deeplabv3plus", "zoomout")),
    ],
)
def test_rows_over_devices_compute_what_one_device_does(name, norm):
    """Whole means and bins are sums over all of them, and taps reach beyond the neighbours."""
    expected, gradients = on_mesh(name, 1, norm)
    for space in (4, 8) if decoder_with_weights(name)[0].takes_inside else (8,):
        loss, sharded = on_mesh(name, space, norm)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(gradients), strict=True):
            # Rounding decides where some of the maxima of lrr's masks are.
            np.testing.assert_allclose(a, b, rtol=0, atol=(1e-3 if name == "lrr" else 1e-4) * np.abs(b).max() + 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_an_exported_model_predicts(config, tmp_path, name):
    config.model.update(decoder=name, auxiliary=name == "pspnet")
    model = settings.model_from(config)
    variables = randomize(init_variables(model, 0))
    model_file.save(tmp_path / "model.safetensors", variables, config, 1)
    segmenter = gcn_jax.load(tmp_path / "model.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    canvas = pad(image, 64, 64, config.data.mean)
    inside = np.array([[0, 0, 50, 60]], np.int32)
    normalized = normalize(canvas[None], settings.preprocessing(config))
    with xla.platform("cpu"):
        scores = jax.jit(segmenter.model.apply)(variables, normalized, inside=inside)[0, :50, :60]
    np.testing.assert_array_equal(segmenter.predict(image), np.argmax(scores, -1))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [("pspnet", "auxiliary=True"), ("lrr", "norm=frozen")])
def test_every_mode_takes_another_decoder(tmp_path, cache, changes):
    decoder, other = changes
    flags = ("--config=configs/shapes.py", f"--config.cache_dir={cache}", f"--workdir={tmp_path / 'run'}")
    flags += ("--config.model.width=4", "--config.num_steps=2", "--config.batch_size=2", "--config.data.size=64")
    chosen = (f"--config.model.decoder={decoder}", f"--config.model.{other}")
    out, _ = command_line.run(*flags, *chosen, "--mode=plan")
    assert decoder in out
    command_line.run(*flags, *chosen)
    for mode in ("eval", "receptive_field"):
        command_line.run(*flags, f"--mode={mode}")
    file = tmp_path / "model.safetensors"
    command_line.run(*flags, "--mode=export", f"--output={file}")
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(tmp_path / "image.png")
    given = (*flags[:2], f"--workdir={file}", f"--input={tmp_path / 'image.png'}", f"--output={tmp_path / 'out'}")
    command_line.run(*given, "--mode=predict")
    with Image.open(tmp_path / "out" / "image.png") as mask:
        assert mask.size == (90, 70)
    fields = json.loads((tmp_path / "run" / "receptive_field.json").read_text())
    assert [run["kernel_side"] for run in fields["runs"].values()] == [None]


@pytest.mark.slow
def test_the_second_head_adds_its_loss_in_training_alone(config):
    config.model.update(decoder="fcn32s", auxiliary=True)
    config.loss.auxiliary = 0.5
    recipe = settings.recipe(config)
    variables = randomize(init_variables(recipe.model, 0))
    batch = random_batch(2)
    images = normalize(batch["image"], recipe.preprocessing)

    @jax.jit
    def both(variables):
        logits, kept = recipe.model.apply(variables, images, train=True, mutable=["batch_stats", "auxiliary"])
        return logits, *jax.tree.leaves(kept["auxiliary"]), recipe.model.apply(variables, images)

    with xla.platform("cpu"):
        logits, second, tested = both(variables)
        loss = jax.jit(lambda v: make_loss(recipe)(*split_fixed(v["params"], ""), v["batch_stats"], batch)[0])(
            variables
        )
    assert relative(second, logits) > 0.1
    np.testing.assert_array_equal(tested, logits)
    expected = cross_entropy(logits, batch["label"]) + 0.5 * cross_entropy(second, batch["label"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.slow
def test_scores_of_several_scales_are_fused_by_their_maxima(config):
    """As three networks of the same weights give them; each scale has a loss beside that of the fused scores."""
    config.model.update(decoder="aspp_s", fused_scales=(0.75, 0.5))
    config.loss.auxiliary = 1.0
    recipe = settings.recipe(config)
    single = build_model(recipe.model.num_classes, "resnet14", width=4, decoder="aspp_s", kernel_size=3)
    variables = randomize(init_variables(recipe.model, 0))
    batch = random_batch(2)
    images = normalize(batch["image"], recipe.preprocessing)
    size = images.shape[1:3]

    @jax.jit
    def found(variables):
        own = [images] + [resize(images, [round(side * scale) for side in size]) for scale in (0.75, 0.5)]
        scored = [resize_scores(single, variables, view, size) for view in own]
        loss = make_loss(recipe)(*split_fixed(variables["params"], ""), variables["batch_stats"], batch)[0]
        return recipe.model.apply(variables, images), scored, loss

    with xla.platform("cpu"):
        fused, scored, loss = found(variables)
    assert all(np.any(fused == own) for own in scored)
    np.testing.assert_allclose(fused, np.max(scored, axis=0), atol=1e-4)
    losses = [cross_entropy(own, batch["label"]) for own in (fused, *scored)]
    np.testing.assert_allclose(loss, sum(losses), rtol=1e-4)


def resize_scores(model, variables, images, size):
    """The scores of a view, enlarged once, from the decoder's own resolution to the image's."""
    features = model.backbone.apply({kind: tree["backbone"] for kind, tree in variables.items()}, images)
    own = {kind: {k: v for k, v in tree.items() if k != "backbone"} for kind, tree in variables.items()}
    return model.decoder.apply(own, features, size)


@pytest.mark.slow
def test_new_statistics_leave_patterns_as_they_are():
    model = build_model(5, "resnet14", width=4, decoder="lrr")
    variables = randomize(init_variables(model, 0))
    batches = [normal(2, 64, 64, 3, seed=i) for i in range(2)]  # whose statistics are added up
    stats = reestimate_statistics(model, variables, batches)["batch_stats"]
    np.testing.assert_array_equal(stats["patterns"]["patterns"], variables["batch_stats"]["patterns"]["patterns"])
    assert np.any(stats["backbone"]["norm1"]["mean"] != variables["batch_stats"]["backbone"]["norm1"]["mean"])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["all", "decoder"])
def test_statistics_of_decoders_are_taken_anew(part):
    """Of zoom-out's features they are those that the backbone gives."""
    model = build_model(5, "resnet14", width=4, decoder="zoomout", norm="train" if part == "all" else "frozen")
    variables = randomize(init_variables(model, 0))
    batches = [normal(2, 64, 64, 3, seed=i) for i in range(3)]
    found = reestimate_statistics(model, variables, batches, part)["batch_stats"]
    backbone = {kind: tree["backbone"] for kind, tree in variables.items()}

    @jax.jit
    def features(images):
        return model.backbone.apply(backbone, images, True, mutable=["batch_stats"])[0]

    values = [features(images) for images in batches]
    for level in ("stem", "res2", "res5"):
        joined = np.concatenate([np.asarray(v[level], np.float64) for v in values])
        np.testing.assert_allclose(found[f"norm_{level}"]["mean"], joined.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[f"norm_{level}"]["var"], joined.var((0, 1, 2)), rtol=1e-3, atol=1e-5)
    is_same = jax.tree.all(jax.tree.map(np.array_equal, found["backbone"], variables["batch_stats"]["backbone"]))
    assert is_same == (part == "decoder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.decoder": "vgg"}, "config.model.decoder must be one of gcn, fcn32s, "),
        ({"model.decoder": "pspnet", "model.head": "conv"}, "config.model.head and branches are of decoder='gcn'"),
        ({"model.decoder": "pspnet", "model.norm": "train", "batch_size": 1}, "config.batch_size=1: .*pspnet"),
        ({"model.norm": "train", "batch_size": 1, "data.size": 32}, "config.batch_size=1: .*res-5, one pixel"),
        ({"model.decoder_norm": "batch"}, "config.model.decoder_norm must be one of frozen, train"),
        ({"model.decoder_norm": "train"}, "config.model.decoder_norm=train has no effect without a config.model"),
        (
            {"model.decoder": "zoomout", "model.decoder_norm": "train", "batch_size": 1},
            "config.batch_size=1: .*zoomout .*, or config.model.decoder_norm=frozen",
        ),
        (
            {"model.decoder": "segnet", "model.decoder_norm": "train", "batch_size": 1, "data.size": 32},
            "config.batch_size=1: config.model.decoder_norm=train normalises res-5, .*, or config.model.decoder_norm=f",
        ),
        (
            {"model.decoder": "zoomout", "reestimate.batches": 2, "reestimate.batch_size": 1},
            "config.reestimate.batch_size=1: must be 2 or more with config.model.decoder=zoomout",
        ),
        ({"reestimate.batches": 2, "reestimate.part": "decoder"}, "config.reestimate.part='decoder' has no effect"),
        ({"reestimate.part": "decoder", "model.decoder": "fcn"}, "config.reestimate.part='decoder' has no effect"),
        ({"loss.auxiliary": 0.2}, "config.loss.auxiliary=0.2 has no effect without config.model.auxiliary=True"),
        ({"model.fused_scales": (0.0,)}, "config.model.fused_scales must be numbers between 0 and 2"),
        ({"model.fused_scales": (0.5,)}, "config.model.fused_scales must be empty with decoder='gcn'"),
        ({"model.fused_scales": (0.5,), "model.decoder": "lrr"}, "config.model.fused_scales must be empty with"),
        ({"model.fused_scales": ("half",)}, "config.model.fused_scales must be numbers between 0 and 2"),
        ({"model.decoder": "lrr", "data.multi_label": True}, "config.model.decoder='lrr' does not go with config.data"),
        ({"loss.auxiliary": 0.0, "model.auxiliary": True}, "config.loss.auxiliary must be positive"),
        ({"model.output_stride": 8}, "config.model.output_stride must be 32 or 0 with decoder='gcn'"),
    ],
)
def test_wrong_values_of_the_config_are_named(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        validate(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.decoder": "pspnet", "model.norm": "train", "model.decoder_norm": "frozen", "batch_size": 1},
        {"model.decoder": "segnet", "model.decoder_norm": "train", "batch_size": 1},
        {"model.decoder_norm": "train", "model.auxiliary": True},
    ],
)
def test_norms_that_have_more_than_one_value_are_taken(config, changes):
    config.update_from_flattened_dict(changes)
    validate(config)


@pytest.mark.parametrize("missing", [("decoder", "decoder_norm", "output_stride", "auxiliary")])
def test_a_run_of_before_there_was_a_choice_is_a_gcn(config, tmp_path, missing):
    saved = config.to_dict()
    for key in missing:
        del saved["model"][key]
    del saved["loss"]["auxiliary"], saved["reestimate"]["part"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    saved_config.check_same_model(config, tmp_path, "--workdir", "")
    config.model.decoder = "fcn8s"
    with pytest.raises(UserError, match=r"checkpoints have config\.model\.decoder 'gcn', not 'fcn8s'"):
        saved_config.check_same_model(config, tmp_path, "--workdir", "")


def test_refinenets_kernels_start_as_in_the_authors_code():
    """N(0, 0.01) at 2048 channels of res-5; with a sixteenth of them four times that, which is the same gain."""
    params = init_variables(build_model(5, "resnet14", width=4, decoder="refinenet"), 0)["params"]
    kernels = {name: layer["kernel"] for name, layer in params.items() if name != "backbone"}
    assert len(kernels) == 4 + 2 * 4 * (2 + 3) + 2 * 3 + 4 * 4 + 1
    for name, kernel in kernels.items():
        assert np.std(kernel) == pytest.approx(0.04, rel=0.1), name


def test_each_fcn_starts_as_the_one_before():
    """FCN-16s from the weights of FCN-32s: its new scores are 0."""
    names = ("a", "b", "c", "d", "e")
    before, model = (build_model(5, "resnet14", width=4, decoder=name) for name in ("fcn32s", "fcn16s"))
    trained, fresh = randomize(init_variables(before, 0)), init_variables(model, 1)
    variables, lines = carry_over(fresh, trained, model, names, names)
    assert lines == ["score_res4 starts fresh"]
    np.testing.assert_array_equal(
        variables["params"]["score_res5"]["kernel"], trained["params"]["score_res5"]["kernel"]
    )
    assert not np.any(variables["params"]["score_res4"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dilated_large", "pspnet", "aspp"])
def test_classes_carry_over(name):
    """A class that is added changes no score of the others."""
    options = {"backbone": "resnet14", "width": 4, "decoder": name}
    old, new = ["a", "b"], ["x", "b", "a"]
    trained = randomize(init_variables(build_model(2, **options), 0))
    model = build_model(3, **options)
    variables, _ = carry_over(init_variables(model, 1), trained, model, new, old)
    images = normal(1, 64, 64, 3)
    with xla.platform("cpu"):
        expected = jax.jit(build_model(2, **options).apply)(trained, images)
        found = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(found[..., [2, 1]], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_shapes_and_dtypes_at_odd_sizes(name):
    model = build_model(3, "resnet18", width=4, decoder=name, dtype="bfloat16", norm="train")
    variables = variable_shapes(model)
    for size in ((32, 32), (33, 47), (97, 130)):
        image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        found = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[0], variables, image)
        assert (found.shape, found.dtype) == ((2, *size, 3), jnp.float32)
