"""The CRF: against dense matrices, a lattice of dictionaries, pydensecrf2; padding, gradients, bad input, in use."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from scipy import ndimage
from scipy.special import softmax

from gcn_jax import config as config_lib
from gcn_jax import crf, load
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.config import settings
from gcn_jax.crf import dense_crf, lattice
from gcn_jax.errors import UserError
from gcn_jax.inference.labeller import Labeller
from gcn_jax.models import init_variables
from gcn_jax.models.ops import xla
from gcn_jax.modes import crf_search, evaluate, predict
from gcn_jax.training.step import init_state
from tests import command_line
from tests.crf_scenes import SMALL, all_features, permutohedral, scene
from tests.helpers import randomize

mean_field = jax.jit(crf.mean_field, static_argnames=("filter", "capacity"))
SETTINGS = {"voc": (10, 3, 1, 4, 67, 3), "wide": (10, 3, 3, 10, 80, 13)}


def gaussian(features):
    """The matrix of a kernel in float64."""
    return np.exp(-0.5 * np.square(features[:, None] - features[None]).sum(-1))


def brute_force(image, logits, params, kernel=gaussian):
    """Mean field in float64 with matrices of all pairs of pixels."""
    classes = logits.shape[-1]
    unary = logits.reshape(-1, classes).astype(np.float64)
    mu = -np.eye(classes) if params.compatibility is None else np.asarray(params.compatibility, np.float64)
    weights = (params.position_weight, params.bilateral_weight)
    total = 0
    for weight, matrix in zip(weights, map(kernel, all_features(image, params)), strict=True):
        scale = 1 / np.sqrt(matrix.sum(1))
        total = total + weight * scale[:, None] * matrix * scale
    q = softmax(unary, axis=-1)
    for _ in range(params.iterations):
        q = softmax(unary - total @ q @ mu.T, axis=-1)
    return q.reshape(logits.shape)


def test_exact_kernels():
    """With a compatibility of no symmetry, and with Potts in both of its forms."""
    image, logits = scene(20, 27, 5)
    general = np.random.default_rng(1).uniform(0, 1, (5, 5)).astype(np.float32)
    for matrix in (general, None):
        params = dataclasses.replace(SMALL, compatibility=matrix)
        expected = brute_force(image, logits, params)
        np.testing.assert_allclose(crf.refine(image, logits, params, filter="exact"), expected, atol=1e-5)
        assert (expected.argmax(-1) != logits.argmax(-1)).mean() > 0.2, "the CRF has work to do"
    potts = dataclasses.replace(SMALL, compatibility=1 - np.eye(5, dtype=np.float32))
    np.testing.assert_allclose(crf.refine(image, logits, potts, filter="exact"), expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    ["constant", "noise", *(pytest.param(k, marks=pytest.mark.slow) for k in ("scene", "row", "column", "pixel"))],
)
def test_lattice(kind):
    """Against the lattice of dictionaries: few cells with all pixels, each pixel its own cells, images of one row."""
    image, logits = scene(16, 13, 3)
    image = {"constant": np.full_like(image, 200), "noise": np.random.default_rng(2).integers(0, 256, image.shape)}.get(
        kind, image
    )
    rows, columns = {"row": (1, 13), "column": (16, 1), "pixel": (1, 1)}.get(kind, (16, 13))
    image, logits = image[:rows, :columns].astype(np.uint8), logits[:rows, :columns]
    params = dataclasses.replace(SMALL, sigma_rgb=2.0 if kind == "noise" else 40.0)
    ours = crf.refine(image, logits, params)
    expected = brute_force(image, logits, params, permutohedral)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    with xla.platform("gpu"):
        np.testing.assert_allclose(mean_field(image, logits, params), expected, atol=2e-5)
    if kind != "noise":  # in which the true kernel has no neighbours at all
        limit = 0.02 if kind in ("scene", "constant") else 0.05  # few lattice points have all their neighbours
        assert np.abs(ours - brute_force(image, logits, params)).mean() < limit


def test_filter_is_nearly_gaussian():
    """One step of the normalised filter against the true kernel: the lattice's error, relative to the values' range."""
    image, logits = scene(24, 24, 4)
    features = np.asarray(crf.features(jnp.asarray(image), SMALL)[1])
    values = np.concatenate([logits.reshape(-1, 4), np.ones((24 * 24, 1), np.float32)], axis=1)

    @jax.jit
    def filtered(features, values):
        built = lattice.connect(lattice.locate(features, jnp.ones(24 * 24, bool)), 6 * 24 * 24)
        return lattice.filter_values(built, values)

    ours, exact = np.asarray(filtered(features, values)), gaussian(features.T) @ values
    difference = ours[:, :-1] / ours[:, -1:] - exact[:, :-1] / exact[:, -1:]
    assert np.abs(difference).mean() < 0.05 * np.ptp(exact[:, :-1] / exact[:, -1:])


@pytest.mark.slow
def test_padding_changes_nothing():
    """Neither what `refine` pads nor garbage beyond `is_valid`."""
    image, logits = scene(35, 30, 3)
    unpadded = mean_field(image, logits, SMALL)
    np.testing.assert_allclose(crf.refine(image, logits, SMALL), unpadded, atol=1e-5)
    garbage = np.random.default_rng(3)
    big = garbage.integers(0, 256, (40, 64, 3)).astype(np.uint8)
    big_logits = garbage.normal(size=(40, 64, 3)).astype(np.float32) * 100
    big[:35, :30], big_logits[:35, :30] = image, logits
    is_valid = np.zeros((40, 64), bool)
    is_valid[:35, :30] = True
    padded = mean_field(big, big_logits, SMALL, is_valid=is_valid)[:35, :30]
    np.testing.assert_allclose(padded, unpadded, atol=1e-5)
    np.testing.assert_array_equal(padded.argmax(-1), unpadded.argmax(-1))


def test_few_shapes_and_programs():
    padded = {dense_crf._padded(length) for length in range(1, 4097)}
    assert len(padded) < 35
    assert all(length <= dense_crf._padded(length) < 1.25 * length + 32 for length in range(1, 4097))
    assert dense_crf._padded(500) == 512
    assert (dense_crf._padded(1024), dense_crf._padded(2048)) == (1024, 2048)
    assert max(dense_crf._CAPACITIES) == 6, "the worst case has room"


def test_noise_fills_the_bound():
    """Where every pixel has cells of its own there are d + 1 lattice points for each, and never more."""
    image = np.random.default_rng(10).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    located = jax.jit(
        lambda image, params: lattice.locate(crf.features(image, params)[1], jnp.ones(16 * 16, bool)).size
    )
    sizes = [int(located(image, dataclasses.replace(SMALL, sigma_xy=s, sigma_rgb=s))) for s in (0.5, 3.0, 1e4)]
    assert sizes[0] == 6 * 16 * 16
    assert sizes[0] >= sizes[1] > 5 * 16 * 16
    assert sizes[2] < 20, "all in a few simplices around the origin"


def test_what_does_not_fit_is_not_silent():
    """Too little room, or keys of more than 64 bits."""
    image, logits = scene(32, 32, 3)
    features = crf.features(jnp.asarray(image), SMALL)[1]
    points = jax.jit(lattice.locate)(features, jnp.ones(32 * 32, bool))
    build = jax.jit(dense_crf._normalized, static_argnames="capacity")
    assert np.isfinite(build(points, capacity=1024).weight).all()
    assert np.isnan(build(points, capacity=8).weight).all()
    assert np.isnan(build(points._replace(fits=jnp.array(False)), capacity=1024).weight).all()
    with pytest.raises(ValueError, match="sigma_rgb=1e-07"):
        crf.refine(image, logits, dataclasses.replace(SMALL, sigma_rgb=1e-7))


@pytest.mark.slow
def test_a_batch_is_its_images():
    pairs = [scene(16, 16, 3, seed) for seed in (4, 5)]
    images, logits = map(np.stack, zip(*pairs, strict=True))
    together = jax.jit(jax.vmap(lambda image, logits: crf.mean_field(image, logits, SMALL)))(images, logits)
    for i, pair in enumerate(pairs):
        np.testing.assert_allclose(together[i], mean_field(*pair, SMALL), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", crf.FILTERS)
def test_gradients(kind):
    """Of logits, weights and compatibility, against differences of float64 or float32 function values."""
    image, logits = scene(10, 12, 3)
    target = np.random.default_rng(6).normal(size=logits.shape).astype(np.float32)
    start = (logits, 2.0, 3.0, 1 - np.eye(3, dtype=np.float32))
    rng = np.random.default_rng(7)
    directions = [jax.tree.map(lambda x: rng.normal(size=np.shape(x)).astype(np.float32), start) for _ in range(3)]

    @jax.jit
    def score(logits, position_weight, bilateral_weight, compatibility):
        params = dataclasses.replace(
            SMALL,
            iterations=3,
            position_weight=position_weight,
            bilateral_weight=bilateral_weight,
            compatibility=compatibility,
        )
        return (crf.mean_field(image, logits, params, filter=kind) * target).sum()

    gradient = jax.grad(score, argnums=(0, 1, 2, 3))(*start)
    assert all(np.abs(g).max() > 0 for g in gradient)
    for direction in directions:
        ends = [jax.tree.map(lambda x, d, s=s: x + s * d, start, direction) for s in (0.01, -0.01)]
        expected = (score(*ends[0]) - score(*ends[1])) / 0.02
        ours = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
        np.testing.assert_allclose(ours, expected, rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_it_learns_a_compatibility():
    """CRF as RNN: classes 1 and 2 lie side by side in truth, and a matrix that starts as Potts learns to allow it."""
    image, _ = scene(16, 16, 3)
    label = np.where(np.indices((16, 16)).sum(0) % 2, 1, 2)
    label[:, 8:] = 0
    logits = np.eye(3, dtype=np.float32)[label] + np.random.default_rng(8).normal(size=(16, 16, 3)).astype(np.float32)

    def loss(compatibility):
        q = crf.mean_field(image, logits, dataclasses.replace(SMALL, iterations=5, compatibility=compatibility))
        return optax.softmax_cross_entropy_with_integer_labels(jnp.log(q + 1e-9), label).mean()

    step = jax.jit(jax.value_and_grad(loss))
    matrix, losses = 1 - jnp.eye(3), []
    for _ in range(5):
        value, gradient = step(matrix)
        losses.append(float(value))
        matrix -= 0.02 * gradient
    assert all(after < before for before, after in itertools.pairwise(losses)), losses
    assert max(matrix[1, 2], matrix[2, 1]) < 1, "the two classes bear each other better than they did"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.full((8, 8, 3), np.nan, np.float32)}, "finite"),
        ({"logits": np.full((8, 8, 3), -np.inf, np.float32)}, "finite"),
        ({"logits": np.zeros((8, 9, 3), np.float32)}, r"Got \(8, 8, 3\) and \(8, 9, 3\)"),
        ({"logits": np.zeros((8, 8, 0), np.float32)}, "not empty"),
        ({"image": np.zeros((8, 8), np.uint8)}, r"image must be \[H, W, 3\]"),
        ({"params": crf.Params(sigma_rgb=0.0)}, "sigma_rgb must be positive. Got 0"),
        ({"params": crf.Params(position_sigma=-1.0)}, "position_sigma must be positive"),
        ({"params": crf.Params(sigma_xy=float("nan"))}, "sigma_xy must be positive"),
        ({"params": crf.Params(bilateral_weight=-1.0)}, "bilateral_weight must be 0 or more"),
        ({"params": crf.Params(iterations=-1)}, "iterations must be 0 or more"),
        ({"params": crf.Params(compatibility=np.eye(2))}, r"compatibility must be finite, \[3, 3\]"),
        ({"filter": "fast"}, "one of lattice, exact"),
        (
            {"image": np.zeros((2049, 2048, 3), np.uint8), "logits": np.zeros((2049, 2048, 1), np.float32)},
            "2048x2049 pixels and 1 classes is too large",
        ),
        (
            {
                "image": np.zeros((130, 130, 3), np.uint8),
                "logits": np.zeros((130, 130, 3), np.float32),
                "filter": "exact",
            },
            "too large for the exact filter",
        ),
    ],
)
def test_bad_input(change, message):
    good = {"image": np.zeros((8, 8, 3), np.uint8), "logits": np.zeros((8, 8, 3), np.float32), "params": crf.Params()}
    with pytest.raises(ValueError, match=message):
        crf.refine(**{**good, **change})


def test_one_class_and_no_iterations():
    image, logits = scene(12, 12, 4)
    np.testing.assert_array_equal(crf.refine(image, logits[..., :1], SMALL), 1)
    unchanged = crf.refine(image, logits, dataclasses.replace(SMALL, iterations=0))
    np.testing.assert_allclose(unchanged, softmax(logits, axis=-1), atol=1e-6)


def test_certain_probabilities():
    """Zeros and ones become logits that the CRF can still change."""
    label = np.zeros((12, 12), int)
    label[6, 6] = 1
    logits = crf.log_probabilities(np.eye(2, dtype=np.float32)[label])
    assert np.isfinite(logits).all()
    strong = crf.Params(10, 30.0, 3.0, 30.0, 6.0, 40.0)
    assert (crf.refine(np.full((12, 12, 3), 90, np.uint8), logits, strong).argmax(-1) == 0).all()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["2007_000063", "2010_000941"])
def test_pydensecrf(real_data, name, setting):
    """Real images at VOC's size, unaries from truth that was moved, blurred and disturbed."""
    dcrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is built from source: pip install .[bench]")
    root = real_data / "VOCdevkit/VOC2012"
    image = np.array(Image.open(root / f"JPEGImages/{name}.jpg").convert("RGB"))
    label = np.array(Image.open(root / f"SegmentationClass/{name}.png"))
    truth = np.eye(21)[np.roll(np.where(label == 255, 0, label), (8, 8), (0, 1))]
    noise = np.random.default_rng(9).normal(size=truth.shape)
    probabilities = softmax(ndimage.gaussian_filter(2 * truth + noise, (2, 2, 0)), axis=-1).astype(np.float32)
    iterations, weight, sigma, bilateral, sigma_xy, sigma_rgb = SETTINGS[setting]
    peer = dcrf.DenseCRF2D(*label.shape[::-1], 21)
    logits = crf.log_probabilities(probabilities)
    peer.setUnaryEnergy(np.ascontiguousarray(-logits.reshape(-1, 21).T))
    peer.addPairwiseGaussian(sxy=sigma, compat=weight)
    peer.addPairwiseBilateral(sxy=sigma_xy, srgb=sigma_rgb, rgbim=image, compat=bilateral)
    expected = np.array(peer.inference(iterations)).T.reshape(probabilities.shape)
    ours = crf.refine(image, logits, crf.Params(*SETTINGS[setting]))
    changed = (expected.argmax(-1) != probabilities.argmax(-1)).mean()
    assert changed > 0.01, "the CRF has work to do: ten times what may differ"
    assert (ours.argmax(-1) == expected.argmax(-1)).mean() > 0.999
    assert np.abs(ours - expected).mean() < 1e-2


def test_parse():
    assert crf.parse("") is None
    assert crf.parse("voc") == crf.Params() == crf.parse("10,3,1,4,67,3")
    assert crf.parse(" 5, 1,2 ,0,10,4.5") == crf.Params(5, 1.0, 2.0, 0.0, 10.0, 4.5)


@pytest.mark.parametrize("text", ["on", "1.5,3,1,4,67,3", "9,3,1,4", "10,3,1,4,67,0", "9,3,1,-4,67,3", "nan,1,1,1,1,1"])
def test_wrong_settings_are_told(config, text):
    config.eval.crf = text
    with pytest.raises(UserError, match=r'config\.eval\.crf must be "" for none, "voc", or six numbers'):
        config_lib.validate(config)


@pytest.fixture
def trained(config, tmp_path):
    """An untrained model, saved as a run; gives its config and workdir."""
    model = config_lib.model_from(config)
    variables = randomize(init_variables(model, 0))
    workdir = tmp_path / "run"
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(init_state(variables, settings.recipe(config)), {"batches": 0})
    saved_config.save(config, workdir)
    return config, workdir


def test_in_use(trained, tmp_path, monkeypatch):
    """A loaded model, predict and eval refine what the plain model gives; windows are refined as one image."""
    config, workdir = trained
    text = "5,3,1,4,20,10"
    image, _ = scene(50, 60, 3)
    plain = load(workdir).probabilities(image)
    expected = crf.refine(image, crf.log_probabilities(plain), crf.parse(text))
    refined = load(workdir, crf=text)
    np.testing.assert_allclose(refined.probabilities(image), expected, atol=1e-6)
    np.testing.assert_array_equal(refined.predict(image), expected.argmax(-1))
    assert (expected.argmax(-1) != plain.argmax(-1)).any()
    windowed = load(workdir, window=32).probabilities(image)
    expected = crf.refine(image, crf.log_probabilities(windowed), crf.parse(text)).argmax(-1)
    np.testing.assert_array_equal(load(workdir, window=32, crf=text).predict(image), expected)

    Image.fromarray(image).save(tmp_path / "photo.png")
    labels = refined.predict(image)
    config.eval.crf = text
    predict.run(config, workdir, [str(tmp_path / "photo.png")], tmp_path / "out")
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out/photo.png")), labels)

    seen = []

    def spy(self, image, probabilities):
        seen.append(self._crf)
        return probabilities[: image.shape[0], : image.shape[1]]

    monkeypatch.setattr(Labeller, "_refined", spy)
    monkeypatch.setattr(evaluate, "open_source", lambda *args: FewShapes())
    config.eval.crf = text
    evaluate.run({workdir: config})
    assert json.loads((workdir / "eval.json").read_text())["protocol"]["crf"] == text
    assert f"CRF {text}" in (workdir / "report.html").read_text()
    assert seen == [crf.parse(text)] * 2


class FewShapes:
    """Two drawn images."""

    image_ids = ("a", "b")

    def __len__(self):
        return 2

    def __getitem__(self, i):
        image, logits = scene(50, 60, 3, seed=i)
        return {"image": image, "label": logits.argmax(-1).astype(np.uint8), "image_id": self.image_ids[i]}


def test_search_finds_the_better(trained, tmp_path, capsys, monkeypatch):
    """Scores against a recount; the network runs once an image; the best line can be used as it is."""
    config, workdir = trained
    search = config.crf_search
    search.num_images, search.position_weight, search.position_sigma = 0, (0.0, 3.0), (1.0,)
    search.bilateral_weight, search.sigma_xy, search.sigma_rgb = (0.0,), (20.0,), (10.0,)
    monkeypatch.setattr(crf_search, "open_source", lambda *args: FewShapes())
    result = crf_search.run(config, workdir)
    scores = {row["crf"]: row["miou"] for row in result["results"]}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert scores[""] == pytest.approx(scores["10,0,1,0,20,10"]), "weights of 0 change nothing"
    assert json.loads((workdir / "crf_search.json").read_text()) == result
    segmenter, classes = load(workdir, crf="10,3,1,0,20,10"), load(workdir).spec.num_classes
    confusion = np.zeros((classes, classes))
    for sample in map(FewShapes().__getitem__, range(2)):
        np.add.at(confusion, (sample["label"].ravel(), segmenter.predict(sample["image"]).ravel()), 1)
    both, either = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    assert scores["10,3,1,0,20,10"] == pytest.approx((both[either > 0] / either[either > 0]).mean())
    best = next(iter(scores))
    out = capsys.readouterr().out
    assert f"--config.eval.crf={best}" in out
    head, columns, _, *rows = out.splitlines()
    assert head == "iterations, position_weight, position_sigma, bilateral_weight, sigma_xy, sigma_rgb:"
    assert columns.split("  ")[0] == "--config.eval.crf="
    assert [row.split()[0] for row in rows[: len(scores)]] == [text or "(none)" for text in scores]


@pytest.mark.slow
def test_command_line(trained, cache):
    _, workdir = trained
    common = [f"--workdir={workdir}", "--config=configs/shapes.py", f"--config.cache_dir={cache}"]
    assert "config.eval.crf must be" in command_line.refused(*common, "--mode=eval", "--config.eval.crf=10,3,1")
    search = ["num_images=1", "position_sigma=1", "bilateral_weight=4", "sigma_xy=20", "sigma_rgb=5,10"]
    out, _ = command_line.run(*common, "--mode=crf_search", *(f"--config.crf_search.{value}" for value in search))
    assert out.count("\n10,") + out.count("  10,3,1,4,20,") == 2
    assert len(json.loads((workdir / "crf_search.json").read_text())["results"]) == 3
    err = command_line.refused(*common, "--mode=crf_search", "--config.crf_search.sigma_rgb=0")
    assert "config.crf_search.sigma_rgb must be one or more numbers, above 0" in err
