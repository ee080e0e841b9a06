"""Each form of `models/ops` against XLA's own convolution and PyTorch's: values and gradients."""

import functools
import re

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_jax import config as config_lib
from gcn_jax.models import init_variables
from gcn_jax.models.layers import Conv
from gcn_jax.models.ops import gpu, tpu, xla
from gcn_jax.models.ops.convolution import add_shift, conv2d, conv_transpose2d, max_pool
from gcn_jax.models.ops.packed import BiasedConv, refine, refine_by_eights, refine_packed
from gcn_jax.models.ops.xla import after, once, relu_once
from gcn_jax.runtime.mesh import put_share, replicated
from gcn_jax.training.loss import cross_entropy
from tests.helpers import mesh_of


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(function, reference, *args):
    """Values and gradients (of a random projection) within 1e-5 of the largest."""
    ours, pullback = jax.vjp(jax.jit(function), *args)
    theirs, reference_pullback = jax.vjp(jax.jit(reference), *args)
    assert ours.shape == theirs.shape
    cotangent = normal(*ours.shape, seed=9)
    for a, b in zip((ours, *pullback(cotangent)), (theirs, *reference_pullback(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def dilated(x, kernel):
    """The usual transposed convolution: over an input with zeros between its pixels."""
    numbers = ("NHWC", "HWIO", "NHWC")
    pad = ((2, 2), (2, 2))
    return jax.lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), pad, (2, 2), dimension_numbers=numbers)


def plain(x, kernel, stride):
    """XLA's convolution, and what it makes of its gradients."""
    numbers, (kh, kw) = ("NHWC", "HWIO", "NHWC"), kernel.shape[:2]
    pad = ((kh // 2, kh // 2), (kw // 2, kw // 2))
    stride = (stride, stride) if isinstance(stride, int) else stride
    return jax.lax.conv_general_dilated(x, kernel, stride, pad, dimension_numbers=numbers)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(3, 8), (13, 3), (5, 5)])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (7, 7), (15, 1), (1, 3)])
def test_gradients_are_xlas(kernel_size, channels, stride):
    for size in ((8, 7), (1, 3)):
        args = normal(2, *size, channels[0]), normal(*kernel_size, *channels, seed=1)
        assert_same(functools.partial(conv2d, stride=stride), functools.partial(plain, stride=stride), *args)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("kernel_size", [(2, 2), (3, 3), (7, 7), (15, 15), (15, 1), (1, 15)])
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 16, 12), (2, 33, 9), (9, 5, 8)])
def test_strips_are_xlas(size, kernel_size, stride):
    """Also where a kernel reaches over several strips, and where the rows do not divide into them."""
    args = normal(*size, 3), normal(*kernel_size, 3, 5, seed=1)
    assert_same(functools.partial(tpu.convolve, stride=stride), functools.partial(plain, stride=stride), *args)


@pytest.mark.parametrize(("batch", "count"), [(1, 8), (3, 2), (8, 1)])
def test_a_tpu_convolves_strips(batch, count):
    args = jnp.asarray(normal(batch, 16, 24, 3)), jnp.asarray(normal(3, 3, 3, 5))
    text = jax.jit(conv2d).trace(*args).lower(lowering_platforms=("tpu",)).as_text()
    rows = 16 // count + (2 if count > 1 else 0)
    assert re.search(rf"stablehlo.convolution.*\(tensor<{batch * count}x{rows}x24x3xf32>", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "stride"), [((70, 130), 1), ((130, 70), 1), ((128, 70), 2), ((130, 140), 1), ((128, 128), 1)]
)
def test_gradients_of_many_channels_are_xlas(channels, stride):
    """The last two by Winograd's algorithm where the sides are multiples of its tiles', 2 or 4."""
    for size in ((5, 6), (8, 6), (8, 12)):
        args = normal(2, *size, channels[0]), normal(3, 3, *channels, seed=1)
        assert_same(functools.partial(conv2d, stride=stride), functools.partial(plain, stride=stride), *args)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [((3, 5), (4, 5)), ((4, 4), (130, 140)), ((300, 2), (4, 5))])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (7, 1)])
def test_scale_and_shift(size, channels, stride, kernel_size):
    """The scale's gradient too, and by another way than times the kernel."""
    conv, (c, d) = Conv(channels[1], kernel_size, stride), channels
    args = normal(2, *size, c), normal(*kernel_size, c, d, seed=1), normal(d, seed=2), normal(d, seed=3)

    def ours(x, kernel, scale, shift):
        return conv.apply({"params": {"kernel": kernel}}, x, scale, shift)

    def reference(x, kernel, scale, shift):
        return plain(x, kernel, stride) * scale[None, None, None] + shift[None, None, None]

    assert_same(ours, reference, *args)


@pytest.mark.parametrize("stride", [1, 2])
def test_taps_in_bfloat16_are_summed_in_float32(stride):
    """Within the rounding of the result: bfloat16 sums of 9 taps of 128 channels would be off by more."""
    x, kernel = (jnp.asarray(normal(*shape), jnp.bfloat16) for shape in ((2, 6, 5, 128), (3, 3, 128, 130)))
    exact = plain(x.astype(jnp.float32), kernel.astype(jnp.float32), stride)
    found = jax.jit(functools.partial(conv2d, stride=stride))(x, kernel)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_computed_kernel_stays_whole_on_a_mesh(dtype):
    """Split, 4 rows over 2 devices at stride 2 come out wrong (jax 0.10.2): of twice the kernel, and if cast alone."""
    x, kernel, mix = normal(4, 4, 4, 8), normal(3, 3, 8, 8, seed=1), normal(8, 8, seed=2)

    @jax.jit
    def with_gradients(x, kernel):
        def apply(x, kernel):
            kernel = 2 * kernel if dtype == jnp.float32 else kernel.astype(dtype)
            return jax.nn.relu(conv2d(x.astype(dtype), kernel, stride=2)).astype(jnp.float32) @ mix

        values, pullback = jax.vjp(apply, x, kernel)
        return values, *pullback(values)

    config = config_lib.default()
    config.mesh.update(data=4, space=2)
    mesh = mesh_of(config)
    found = with_gradients(put_share(x, mesh), jax.device_put(kernel, replicated(mesh)))
    for ours, expected in zip(found, with_gradients(x, kernel), strict=True):
        tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_an_update_in_place_copies_no_kernel(kernel_size):
    """The program's text has no copy of a parameter, as it has if another use of the kernel may follow its update."""
    conv, x = Conv(256, kernel_size), normal(1, 8, 8, 256)
    kernel, scale = conv.init(jax.random.key(0), x)["params"]["kernel"], normal(256, seed=1)

    def update(kernel, x, scale):
        def loss(kernel, x):
            return jnp.sum(jnp.square(conv.apply({"params": {"kernel": kernel}}, x, scale)))

        gradient, dx = jax.grad(loss, argnums=(0, 1))(kernel, x)
        return kernel - gradient, dx

    text = jax.jit(update, donate_argnums=0).lower(kernel, x, scale).compile().as_text()
    assert re.search(r"%kernel\.\d+ = ", text)
    assert not re.search(r" copy\(%kernel", text)


def test_shift():
    assert_same(add_shift, lambda x, shift: x + shift[None, None, None], normal(2, 5, 7, 3), normal(3, seed=1))


def refinement(form):
    return lambda x, *weights: form(x, BiasedConv(*weights[:2]), BiasedConv(*weights[2:]))


@pytest.mark.parametrize("size", [(2, 2), (6, 8), (7, 4)])
def test_refinement(size):
    """As is, and with 2x2 pixels as channels."""

    def reference(x, kernel1, shift1, kernel2, shift2):
        y = jax.nn.relu(plain(x, kernel1, 1) + shift1[None, None, None])
        return x + plain(y, kernel2, 1) + shift2[None, None, None]

    shapes = ((2, *size, 3), (3, 3, 3, 3), (3,), (3, 3, 3, 3), (3,))
    args = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    for form in (refine, refine_packed) if size[0] % 2 == 0 else (refine,):
        assert_same(refinement(form), reference, *args)


@pytest.mark.parametrize("kernel_size", [(3, 3), (15, 1), (1, 7)])
def test_a_gpu_convolves_channels_by_eights(kernel_size):
    args = normal(2, 9, 8, 5), normal(*kernel_size, 5, 21, seed=1)
    assert_same(functools.partial(gpu.convolve, stride=(1, 1)), functools.partial(plain, stride=1), *args)
    text = jax.jit(functools.partial(gpu.convolve, stride=(1, 1))).lower(*args).as_text()
    (line,) = (line for line in text.splitlines() if "stablehlo.convolution" in line)
    assert f"(tensor<2x9x8x8xf32>, tensor<{kernel_size[0]}x{kernel_size[1]}x8x24xf32>)" in line


def test_a_gpu_refines_channels_by_eights():
    weights = [array for i in (1, 2) for array in (normal(3, 3, 21, 21, seed=i), normal(21, seed=i + 2))]

    def refined(form):
        return lambda x, *weights: form(x, BiasedConv(*weights[:2]), BiasedConv(*weights[2:]))

    assert_same(refined(refine_by_eights), refined(refine), normal(2, 9, 8, 21), *weights)


def test_a_tpu_refines_packed_pixels():
    args = [normal(*shape) for shape in ((1, 16, 24, 21), (3, 3, 21, 21), (21,), (3, 3, 21, 21), (21,))]
    lowered = jax.jit(refinement(refine)).trace(*args).lower(lowering_platforms=("tpu",))
    channels = re.findall(r"stablehlo.convolution.*\(tensor<\d+x\d+x\d+x(\d+)xf32>", lowered.as_text())
    assert channels == ["84", "84"]


def in_strips(x, kernel, stride=1):
    return tpu.convolve(x, kernel, (stride, stride))


@pytest.mark.parametrize(
    ("function", "weights"),
    [
        (refinement(refine_packed), ((3, 3, 3, 3), (3,), (3, 3, 3, 3), (3,))),
        (conv_transpose2d, ((4, 4, 3, 5),)),
        (in_strips, ((3, 3, 3, 5),)),
        (in_strips, ((9, 1, 3, 5),)),
        (in_strips, ((1, 9, 3, 5),)),
        (functools.partial(in_strips, stride=2), ((7, 7, 3, 5),)),
    ],
)
def test_a_form_of_several_devices_on_a_mesh(function, weights):
    """Gradients of the form of which one CPU device has another, or none."""
    config = config_lib.default()
    config.mesh.update(data=2, space=4)
    mesh = mesh_of(config)
    x, *weights = [normal(*shape, seed=i) for i, shape in enumerate(((2, 16, 8, 3), *weights))]

    def loss(*args):
        """It depends on where each pixel lies."""
        y = function(*args)
        return jnp.sum(jnp.square(y) * normal(*y.shape, seed=9))

    @jax.jit
    def gradients(*args):
        return jax.grad(loss, argnums=range(len(args)))(*args)

    expected = gradients(x, *weights)
    for a, b in zip(gradients(put_share(x, mesh), *jax.device_put(weights, replicated(mesh))), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_the_network_as_for_an_accelerator(config, platform):
    """On a CPU, on one device and on meshes: XLA's partitioner has computed gradients wrongly before, silently."""
    config.model.kernel_size = 15
    model = config_lib.model_from(config)
    variables = init_variables(model, 0)
    variables["params"] = jax.tree.map(lambda x: x + 0.02 * normal(*x.shape), variables["params"])  # no zeros
    images, label = normal(4, 128, 128, 3), np.random.default_rng(1).integers(0, 6, (4, 128, 128)).astype(np.uint8)

    def gradients(params, images, label):
        def loss(params):
            return cross_entropy(model.apply({**variables, "params": params}, images), label)

        return jax.grad(loss)(params)

    with xla.platform("cpu"):
        jitted = jax.jit(gradients)
        expected = {batch: jitted(variables["params"], images[:batch], label[:batch]) for batch in (2, 4)}
    for batch, data, space in ((2, 1, 1), (2, 2, 4), (4, 2, 1)):
        config.mesh.update(data=data, space=space)
        mesh = mesh_of(config)
        arrays = (put_share(array[:batch], mesh) for array in (images, label))
        # The partition is tested; to optimise the programs within would take half of the time.
        options = {"xla_backend_optimization_level": 0} if mesh.size > 1 else {}
        with xla.platform(platform):
            found = jax.jit(gradients, compiler_options=options)(
                jax.device_put(variables["params"], replicated(mesh)), *arrays
            )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected[batch]), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("shape", [(1, 1, 40, 30), (3, 3, 4, 4), (3, 3, 70, 70), (15, 1, 16, 4)])
def test_gradients_in_bfloat16_are_summed_in_float32(shape):
    """Of a thousand pixels: a sum kept in bfloat16 would be off by some percent."""
    x, kernel = normal(1, 32, 32, shape[2]), normal(*shape, seed=1)
    x, kernel = x.astype(jnp.bfloat16) + 1, jnp.asarray(kernel, jnp.bfloat16)
    expected = jax.grad(lambda k: plain(x.astype(jnp.float32), k, 1).sum())(kernel.astype(jnp.float32))
    gradient = jax.jit(jax.grad(lambda k: conv2d(x, k).astype(jnp.float32).sum()))(kernel)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected, rtol=0.01)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)])
def test_pooling_is_xlas(size):
    def window(x):
        return flax.linen.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    assert_same(max_pool, window, normal(2, *size, 3))


def test_relu_once():
    x = np.append(normal(1, 8, 8, 3).reshape(-1), [1e-30, -3e38, 3e38]).astype(np.float32)[None, None, None]
    assert_same(relu_once, jax.nn.relu, x)
    np.testing.assert_array_equal(jax.jit(relu_once)(x), np.maximum(x, 0), "to the bit")
    np.testing.assert_array_equal(jax.grad(lambda x: relu_once(x).sum())(jnp.zeros(3)), 0)
    assert np.isnan(relu_once(jnp.array([np.nan, 1]))[0])
    assert "optimization_barrier" in jax.jit(relu_once).trace(x).lower(lowering_platforms=("tpu",)).as_text()


def test_once_is_computed_once():
    """Without it each of a chain of residual blocks starts over from the first: 1 + 2 + 3 + 4 ReLUs."""
    weights = normal(4, 8, 8)

    def relus(relu):
        def blocks(x):
            for w in weights:
                x = relu(x + x @ w)
            return x

        text = jax.jit(blocks).lower(normal(16, 8)).compile().as_text()
        return len(re.findall(r" = f32\[16,8\]\S* maximum\(", text))

    assert relus(lambda x: once(jax.nn.relu(x))) == relus(relu_once) == 4
    assert relus(jax.nn.relu) == 10, "XLA no longer does: `once` may go"
    x = normal(4, 5)
    np.testing.assert_array_equal(jax.jit(once)(x), x)


def test_after():
    x = normal(4, 5)
    np.testing.assert_array_equal(jax.jit(after)(x, jnp.ones((2, 3))), x)
    assert np.isnan(jax.jit(after)(x, jnp.full((2, 3), jnp.inf))).all()


@pytest.mark.parametrize("channels", [(3, 5), (70, 66)])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8)])
def test_transposed_convolution(size, channels):
    assert_same(conv_transpose2d, dilated, normal(2, *size, channels[0]), normal(4, 4, *channels, seed=1))


def test_a_plain_transposed_convolution_is_xlas_but_not_on_a_mesh(config):
    """There XLA (jax 0.10.2) has computed gradients of a dilated input wrongly."""
    config.mesh.update(data=2, space=4)
    mesh = mesh_of(config)
    x, kernel = normal(2, 16, 8, 3), normal(4, 4, 3, 5)
    with xla.convolutions("plain"):
        assert_same(conv_transpose2d, dilated, x, kernel)
        lowered = jax.jit(conv_transpose2d).lower(x, kernel).as_text()
        on_mesh = (
            jax.jit(conv_transpose2d).lower(put_share(x, mesh), jax.device_put(kernel, replicated(mesh))).as_text()
        )
    assert ("lhs_dilate = [2, 2]" in lowered, "lhs_dilate = [2, 2]" in on_mesh) == (True, False)


@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
def test_pooling_and_convolutions_are_pytorchs(size):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    x = normal(2, *size, 3)
    x_torch = torch.from_numpy(x.transpose(0, 3, 1, 2))
    pooled = torch.nn.functional.max_pool2d(x_torch, 3, 2, 1)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), pooled.numpy().transpose(0, 2, 3, 1))
    for shape, stride in (((7, 7), 2), ((3, 3), 1), ((3, 3), 2), ((1, 1), 2), ((5, 1), 1), ((1, 5), 1)):
        kernel = normal(*shape, 3, 4, seed=1)
        weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        padding = (shape[0] // 2, shape[1] // 2)
        expected = torch.nn.functional.conv2d(x_torch, weight, stride=stride, padding=padding)
        ours = conv2d(jnp.asarray(x), jnp.asarray(kernel), stride=stride)
        np.testing.assert_allclose(ours, expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)
