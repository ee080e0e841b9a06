"""A CRF inside the network: its filters and their transposes, closed forms, gradients, padding, meshes, in use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.special import softmax

from gcn_jax import crf, load
from gcn_jax.checkpoints import model_file
from gcn_jax.checkpoints.carry_over import carry_over
from gcn_jax.config import settings
from gcn_jax.config.checks import validate
from gcn_jax.crf import inputs, lattice, parsing, recurrent
from gcn_jax.data.transforms import pad
from gcn_jax.errors import UserError
from gcn_jax.models import build_model, init_variables
from gcn_jax.models.ops import xla
from gcn_jax.models.preprocessing import Preprocessing, normalize
from gcn_jax.modes import crf_search, export
from gcn_jax.runtime.mesh import make_mesh, replicated
from gcn_jax.training.optimizer import make_optimizer
from gcn_jax.training.step import init_state
from tests.crf_scenes import SMALL, all_features, permutohedral, scene
from tests.helpers import jit_step, random_batch, relative

RGB = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def inputs_of(height=12, width=11, classes=3, seed=0):
    """An image, logits, and matrices without symmetry."""
    image, logits = scene(height, width, classes, seed)
    rng = np.random.default_rng(seed)
    names = ("spatial", "bilateral", "compatibility")
    return image, logits, {name: rng.normal(size=(classes, classes)).astype(np.float32) for name in names}


def kernels_of(image):
    """The row-normalised matrices of both kernels, float64, from the lattice's definition."""
    matrices = map(permutohedral, all_features(image, SMALL))
    return [matrix / matrix.sum(1, keepdims=True) for matrix in matrices]


def closed_form(kernels, logits, matrices, iterations):
    """The paper's iterations in float64."""
    unary = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    q = unary
    for _ in range(iterations):
        p = softmax(q, axis=-1)
        messages = sum(k @ p @ matrices[name] for k, name in zip(kernels, ("spatial", "bilateral"), strict=True))
        q = unary - messages @ matrices["compatibility"]
    return q.reshape(logits.shape)


def refine(image, logits, matrices, iterations=3, is_valid=None):
    return recurrent.refine_logits(jnp.asarray(image, jnp.float32), logits, matrices, SMALL, iterations, is_valid)


def test_the_iterations_are_the_papers():
    image, logits, matrices = inputs_of()
    expected = closed_form(kernels_of(image), logits, matrices, 3)
    assert relative(jax.jit(refine)(image, logits, matrices), expected) < 1e-5
    assert relative(logits, expected) > 0.1


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_transposed_filter_is_the_adjoint(platform):
    """Of both kernels, normalised, also where pixels do not count; what JAX differentiates is the same."""
    image, _, _ = inputs_of()
    count = image.shape[0] * image.shape[1]
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, count, 8)).astype(np.float32)
    is_valid = np.arange(count) % 7 != 3

    @jax.jit
    def both(features, x, y):
        kernel = recurrent.normalized(
            lattice.connect(lattice.locate(features, is_valid), len(features) * count + count)
        )
        filtered, back = jax.vjp(kernel.filter, x)
        return filtered, kernel.transposed(y), back(y)[0]

    for features in crf.features(jnp.asarray(image), SMALL):
        with xla.platform(platform):
            filtered, transposed, differentiated = map(np.float64, both(features, x, y))
        assert abs((filtered * y).sum() - (x * transposed).sum()) < 1e-5 * np.abs(filtered * y).sum()
        assert relative(transposed, differentiated) < 1e-6
        assert relative(transposed, np.float64(both(features, y, x)[0])) > 1e-3, "the filter is not symmetric"


def test_gradients_are_those_of_differences():
    """Of the logits and all matrices, against central differences of the closed form, in float64."""
    image, logits, matrices = inputs_of()
    kernels, target = kernels_of(image), np.random.default_rng(5).normal(size=logits.shape)
    gradients = jax.jit(jax.grad(lambda x, m: (refine(image, x, m) * target).sum(), argnums=(0, 1)))(logits, matrices)
    start = logits.astype(np.float64), {name: np.float64(matrix) for name, matrix in matrices.items()}
    leaves, structure = jax.tree.flatten(start)
    rng = np.random.default_rng(6)
    for i, gradient in enumerate(jax.tree.leaves(gradients)):
        for _ in range(3):
            direction = rng.normal(size=leaves[i].shape)
            ends = []
            for sign in (1, -1):
                moved = [leaf + sign * 1e-5 * direction if j == i else leaf for j, leaf in enumerate(leaves)]
                ends.append((closed_form(kernels, *jax.tree.unflatten(structure, moved), 3) * target).sum())
            expected = (ends[0] - ends[1]) / 2e-5
            tolerance = 1e-4 * float(jnp.linalg.norm(gradient))
            assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-3, abs=tolerance)


@pytest.mark.slow
def test_all_rooms_give_the_same(monkeypatch):
    """A large image takes the smallest of several programs that has room for its lattice points."""
    image, logits, matrices = inputs_of(20, 20)
    noise = np.random.default_rng(2).integers(0, 256, image.shape).astype(np.uint8)

    def value_and_gradients(image):
        loss = jax.value_and_grad(lambda x, m: (refine(image, x, m) ** 2).sum(), argnums=(0, 1))
        return jax.jit(loss)(logits, matrices)

    for one, sizes in ((image, "few"), (noise, "many")):
        expected = value_and_gradients(one)
        with monkeypatch.context() as patched:
            patched.setattr(recurrent, "_SMALL", 0)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), value_and_gradients(one), expected
            )
        points = lattice.locate(crf.features(jnp.asarray(one), SMALL)[1], jnp.ones(400, bool)).size
        assert (points < 400) == (sizes == "few")


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 53), (375, 500)])
def test_room_for_the_position_kernel(shape):
    """The bound holds, and is not far off for an image."""
    params = crf.Params(position_sigma=3.0)
    features = crf.features(jnp.zeros((*shape, 3)), params)[0]
    size = int(jax.jit(lattice.locate)(features, jnp.ones(shape[0] * shape[1], bool)).size)
    assert size <= recurrent._position_room(shape, params) <= 1.1 * size + 60


@pytest.mark.slow
def test_padding_is_left_out():
    """Of a canvas the image's pixels are as without it, and the rest keep the scores of the network."""
    image, logits, matrices = inputs_of(13, 18)
    layer = crf.RecurrentCRF(RGB, (2, 3), 1.5, 6.0, 40.0)
    scores = np.random.default_rng(3).normal(size=(32, 32, 3)).astype(np.float32)
    scores[:13, :18] = logits
    canvas = pad(image, 32, 32, RGB.mean)

    @jax.jit
    def applied(image, logits):
        return layer.apply({"params": matrices}, normalize(image[None], RGB), logits[None])[0]

    found = applied(canvas, scores)
    np.testing.assert_allclose(found[:13, :18], applied(image, logits), atol=1e-4)
    np.testing.assert_array_equal(found[13:], scores[13:])
    np.testing.assert_array_equal(found[:, 18:], scores[:, 18:])


def test_what_counts_as_padding():
    """A border on any side, and a rotation's corners; not the same colour within the image."""
    rows, columns = np.mgrid[:40, :40]
    is_inside = np.abs(rows - 17) + np.abs(columns - 22) < 15
    image = np.where(is_inside[..., None], 90, np.rint(RGB.mean)).astype(np.float32)
    image[17, 20:24] = np.rint(RGB.mean)
    for channels in ("RGB", "BGR"):
        preprocessing = dataclasses.replace(RGB, channels=channels)
        seen = inputs.colors(normalize(jnp.asarray(image)[None], preprocessing), preprocessing)[0]
        np.testing.assert_allclose(seen, image, atol=1e-3)
        np.testing.assert_array_equal(inputs.is_inside(seen, preprocessing), is_inside)


@pytest.fixture(params=crf.LAYERS)
def with_crf(config, request):
    """A tiny model with a CRF on 64 x 64 pixels."""
    config.model.crf = request.param
    validate(config)
    return config


def starts(config):
    """Its recipe, and variables whose scores matter."""
    recipe = settings.recipe(config)
    return recipe, init_variables(recipe.model, 0)


@pytest.mark.slow
def test_a_step_lowers_the_loss(with_crf):
    """End to end: everything is trained, and after some steps the loss of the same batch is lower."""
    recipe, variables = starts(with_crf)
    state, batch = init_state(variables, recipe), random_batch(2)
    step = jit_step(recipe)
    first = state.params["crf"]
    losses = []
    for _ in range(4):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    for name, matrix in state.params["crf"].items():
        assert np.abs(matrix - first[name]).max() > 0, name


def test_it_starts_from_a_run_without(config):
    """All weights carry over, and the CRF starts as published."""
    plain = settings.model_from(config)
    config.model.crf = "rnn"
    model, names = settings.model_from(config), settings.spec_from(config).class_names
    trained, fresh = init_variables(plain, 1), init_variables(model, 2)
    variables, lines = carry_over(fresh, trained, model, names, names)
    assert lines == ["crf starts fresh"]
    classes = len(names)
    for name, factor in (("spatial", 3), ("bilateral", 5), ("compatibility", -1)):
        np.testing.assert_array_equal(variables["params"]["crf"][name], factor * np.eye(classes))
    for name in trained["params"]:
        jax.tree.map(np.testing.assert_array_equal, variables["params"][name], trained["params"][name])
    assert carry_over(trained, variables, plain, names, names)[1] == ["crf is left behind"]
    config.model.crf = "dpn"
    other = settings.model_from(config)
    start = init_variables(other, 3)
    found, lines = carry_over(start, variables, other, names, names)
    assert lines == ["crf starts fresh"], "of another kind"
    jax.tree.map(np.testing.assert_array_equal, found["params"]["crf"], start["params"]["crf"])


def test_further_classes(config):
    """Of a model with DPN's layers the old classes' contexts move to their new places."""
    old, new = ["background", "cat", "dog"], ["background", "owl", "dog", "cat"]
    layer = crf.DeepParsing(RGB)
    before, after = (build_model(len(names), "resnet14", 3, width=4).clone(crf=layer) for names in (old, new))
    trained, fresh = init_variables(before, 1), init_variables(after, 2)
    carried, _ = carry_over(fresh, trained, after, new, old)
    found, given = (x["params"]["crf"]["contexts"].reshape(9, 9, -1, 5, n) for x, n in ((carried, 4), (trained, 3)))
    np.testing.assert_array_equal(found[:, :, [0, 3, 2]][..., [0, 3, 2]], given)
    assert not found[:, :, 1][..., [0, 2, 3]].any(), "what leads from the new class to the old ones"


def test_its_learning_rates(config):
    """The filters' and the compatibility's, as multiples of the rest's."""
    config.model.crf = "rnn"
    config.optimizer.update(crf_rates=(10.0, 0.5), weight_decay=0.0)
    optimizer, rate = make_optimizer(settings.solver(config)), config.optimizer.learning_rate
    params = {"backbone": {"bias": 1.0}, "crf": {"spatial": 1.0, "bilateral": 1.0, "compatibility": 1.0}}
    params = jax.tree.map(jnp.float32, params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    expected = {"spatial": -10 * rate, "bilateral": -10 * rate, "compatibility": -rate / 2}
    assert jax.tree.map(float, updates["crf"]) == pytest.approx(expected)
    assert float(updates["backbone"]["bias"]) == pytest.approx(-rate)


@pytest.mark.slow
@pytest.mark.parametrize("kind", crf.LAYERS)
def test_any_mesh_gives_the_same(kind):
    """Images over devices, and rows over devices: results and gradients are those of one device."""
    layer = crf.LAYERS[kind](RGB)
    pairs = [scene(32, 24, 3, seed) for seed in range(4)]
    images, logits = map(np.stack, zip(*pairs, strict=True))
    images, target = normalize(images, RGB), np.random.default_rng(7).normal(size=logits.shape).astype(np.float32)
    rng = np.random.default_rng(8)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), images, logits)["params"]
    params = {name: layer.initial_value(name, leaf.shape, rng) for name, leaf in shapes.items()}

    def score(params, images, logits, target):
        refined = layer.apply({"params": params}, images, logits, train=True)
        return (refined * target).sum(), refined

    gradient = jax.jit(jax.grad(score, argnums=(0, 2), has_aux=True))
    expected = gradient(params, images, logits, target)
    for data, space in ((4, 1), (2, 4)):
        mesh = make_mesh(data, space)
        rows = NamedSharding(mesh, PartitionSpec("data", "space"))
        found = gradient(jax.device_put(params, replicated(mesh)), *jax.device_put((images, logits, target), rows))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert relative(one, other) < 1e-4


@pytest.mark.slow
def test_a_file_of_it_labels_images(with_crf, tmp_path):
    """It is kept with the model, of whose image no padding counts; other formats are refused."""
    model = settings.model_from(with_crf)
    variables = init_variables(model, 0)
    image = scene(50, 60, 3)[0]
    path = tmp_path / "model.safetensors"
    model_file.save(path, variables, with_crf, 1)
    found = load(path).probabilities(image)
    scores = jax.jit(model.clone(crf=None).apply)(variables, normalize(pad(image, 64, 64, RGB.mean)[None], RGB))[0]
    own = {"params": variables["params"]["crf"]}
    layer = jax.jit(model.crf.apply, static_argnames="train")
    expected, in_training = (
        layer(own, normalize(image[None], RGB), scores[None, :50, :60], train=train)[0] for train in (False, True)
    )
    assert (relative(in_training, expected) > 1e-3) == (with_crf.model.crf == "rnn"), "of 5 iterations, not 10"
    np.testing.assert_allclose(found, softmax(expected, axis=-1), atol=1e-3)
    with pytest.raises(UserError, match=r"model.safetensors has config.model.crf=.*, which other formats have no"):
        export.run(with_crf, path, tmp_path / "model.stablehlo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.crf": "crf"}, "config.model.crf must be one of rnn, dpn"),
        ({"model.crf": "rnn", "eval.crf": "voc"}, "config.model.crf=rnn does not go with config.eval.crf"),
        ({"model.crf": "rnn", "data.multi_label": True}, "does not go with config.data.multi_label"),
        ({"model.crf": "rnn", "data.channels": "4,3,2"}, "does not go with bands in config.data.channels"),
        ({"model.crf": "rnn", "model.crf_iterations": (5,)}, "config.model.crf_iterations must be two whole numbers"),
        ({"model.crf_iterations": (3, 3)}, "config.model.crf_iterations=.* has no effect without config.model.crf=rnn"),
        ({"model.crf": "rnn", "optimizer.crf_rates": (1.0, -1.0)}, "config.optimizer.crf_rates must be two numbers"),
        ({"optimizer.crf_rates": (1.0, 1.0)}, "config.optimizer.crf_rates=.* has no effect without config.model.crf"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(config, changes, message):
    config.update_from_flattened_dict(changes)
    if config.data.channels != "RGB":
        config.data.update(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=message):
        validate(config)


def test_no_search_for_a_second_crf(config, tmp_path):
    config.model.crf = "rnn"
    with pytest.raises(UserError, match=r"config\.model\.crf=rnn: the network has a CRF of its own"):
        crf_search.run(config, tmp_path)


def near_by_hand(image, probabilities, is_valid, scales):
    """DPN's surroundings by their definition, a pixel and a cell at a time, in float64."""
    (height, width), found = is_valid.shape, np.zeros(probabilities.shape)
    for row, column in np.ndindex(height, width):
        weights, values = [], []
        for i in range(row // 8 - 3, row // 8 + 4):
            for j in range(column // 8 - 3, column // 8 + 4):
                if i < 0 or j < 0:
                    continue
                cell = slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8)
                inside = is_valid[cell]
                if inside.any():
                    color, mean = (x[cell][inside].astype(float).mean(0) for x in (image, probabilities))
                    far = (8 * i + 3.5 - row) ** 2 + (8 * j + 3.5 - column) ** 2
                    apart = scales[0] ** 2 * far + scales[1] ** 2 * np.square(image[row, column] - color).sum()
                    weights.append(inside.sum() * np.exp(-apart / 2))
                    values.append(mean)
        found[row, column] = np.array(weights) @ np.array(values) / np.sum(weights)
    return found


def test_surroundings():
    """DPN's means around each pixel, at sides that are no multiple of a cell, with pixels that do not count."""
    image, logits = scene(37, 44, 3)
    is_valid = np.ones((37, 44), bool)
    is_valid[30:, :] = is_valid[3, 5:9] = False
    probabilities = np.where(is_valid[..., None], softmax(logits, axis=-1), 0)
    scales = np.array((0.06, 0.03), np.float32)
    arrays = jnp.float32(image)[None], probabilities[None], is_valid[None, ..., None]
    found = jax.jit(parsing.surroundings)(*arrays, scales)[0]
    expected = near_by_hand(image, probabilities, is_valid, scales)
    assert np.abs(found - expected)[is_valid].max() < 1e-5


def test_block_min_pooling():
    """The least of each class over the mixtures, whose gradient is its alone."""
    values = np.array([[3.0, -1.0, 2.0, 5.0, 9.0, -4.0]], np.float32)  # three mixtures of two classes
    pooled, back = jax.vjp(lambda x: parsing.least_of_mixtures(x, 3), values)
    np.testing.assert_array_equal(pooled, [[2, -4]])
    np.testing.assert_array_equal(back(jnp.array([[1.0, 10.0]]))[0], [[0, 0, 1, 0, 0, 10]])


def test_dpn_gradients():
    """Of the logits, the distance's weights and the contexts, against differences in float64."""
    image, logits = scene(19, 20, 3)
    layer = crf.DeepParsing(RGB)
    images, start = normalize(jnp.asarray(image)[None], RGB), logits[None]
    rng = np.random.default_rng(4)
    shape = (9, 9, 3, 15)
    params = {"distance": np.array((1.2, 0.8)), "contexts": layer.initial_value("contexts", shape, rng)}
    target = rng.normal(size=start.shape)

    def score(logits, params):
        return (layer.apply({"params": params}, images, logits) * target).sum()

    gradients = jax.jit(jax.grad(score, argnums=(0, 1)))(start, jax.tree.map(np.float32, params))
    with jax.enable_x64(True):
        arguments = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (start, params))
        exact = jax.jit(score)
        for i, gradient in enumerate(jax.tree.leaves(gradients)):
            direction = rng.normal(size=gradient.shape)
            leaves, structure = jax.tree.flatten(arguments)
            ends = []
            for sign in (1, -1):
                moved = [leaf + sign * 1e-6 * direction if j == i else leaf for j, leaf in enumerate(leaves)]
                ends.append(float(exact(*jax.tree.unflatten(structure, moved))))
            tolerance = 1e-4 * float(np.linalg.norm(gradient))
            expected = (ends[0] - ends[1]) / 2e-6
            assert float((np.asarray(gradient) * direction).sum()) == pytest.approx(expected, rel=1e-3, abs=tolerance)
