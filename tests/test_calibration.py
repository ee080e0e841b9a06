"""Calibration error and temperature, against the formulas in NumPy's float64 and SciPy's minimisation."""

import json
import re

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax import numpy as jnp
from scipy import optimize, special

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.manager import Checkpoints
from gcn_jax.checkpoints.temperature import settled
from gcn_jax.config import settings
from gcn_jax.data.shapes import ShapesSource
from gcn_jax.errors import UserError
from gcn_jax.evaluation.calibration import Calibration
from gcn_jax.inference.segmenter import load, make_segmenter
from gcn_jax.inference.temperature import fit, sum_over
from gcn_jax.models import init_variables
from gcn_jax.modes import calibrate, evaluate, export
from gcn_jax.training.step import init_state
from tests.helpers import evaluator, labeller, mesh_of, randomize, result_of


def expected_error(confidence, is_right):
    """As torchmetrics has it, with the norm l1, but with bins that are closed above, as Guo et al.'s are."""
    place = np.clip(np.ceil(confidence * 15) - 1, 0, 14).astype(int)
    error, bins = 0.0, []
    for i in range(15):
        own = place == i
        bins.append((own.sum(), confidence[own].mean(), is_right[own].mean()) if own.any() else (0, None, None))
        if own.any():
            error += own.mean() * abs(is_right[own].mean() - confidence[own].mean())
    return error, bins


@pytest.mark.parametrize("sharpness", [0.3, 4.0])
def test_expected_calibration_error(sharpness):
    rng, total, seen = np.random.default_rng(0), Calibration.empty(), []
    for shape in ((40, 50), (7, 1), (64, 30)):
        logits = sharpness * rng.standard_normal((*shape, 5))
        confidence = np.rint(special.softmax(logits, -1).max(-1) * 65535) / 65535
        confidence.flat[:4] = [1, 1 / 15, 2 / 15, 2 / 3]
        label = rng.integers(0, 5, shape).astype(np.uint8)
        label[2:4] = 255
        prediction = np.where(rng.random(shape) < confidence, label, (label + 1) % 5).astype(np.uint8)
        given = {"label": label, "prediction": prediction, "confidence": confidence.astype(np.float32)}
        total = total.merge(Calibration.of_image(**given))
        seen.append(np.stack([confidence, label == prediction], -1)[label != 255])
    found = total.compute()
    error, bins = expected_error(*np.concatenate(seen).T)
    np.testing.assert_allclose(found["ece"], error, rtol=1e-12)
    for own, (count, confidence, accuracy) in zip(found["bins"], bins, strict=True):
        assert own["count"] == count
        assert (own["accuracy"], own["confidence"]) == (pytest.approx(accuracy), pytest.approx(confidence))
    nothing = Calibration.empty().compute()
    assert nothing["ece"] is None
    assert nothing["bins"] == [{"count": 0, "confidence": None, "accuracy": None}] * 15


class Sampled:
    """Images with labels that are drawn from a model's own probabilities at a temperature; some are void."""

    def __init__(self, segmenter, sizes):
        rng, self.samples = np.random.default_rng(0), []
        for height, width in sizes:
            image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            p = segmenter.probabilities(image).astype(np.float64)
            label = (p.cumsum(-1) < rng.random((height, width, 1))).sum(-1).clip(0, p.shape[-1] - 1).astype(np.uint8)
            label[rng.random(label.shape) < 0.1] = 255
            self.samples.append({"image": image, "label": label, "image_id": str(len(self.samples))})
        self.image_ids = [sample["image_id"] for sample in self.samples]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[int(index)]


def segmenter_of(config, variables, **protocol):
    config = config.copy_and_resolve_references()
    config.eval.update(protocol)
    return make_segmenter(config, variables)


@pytest.fixture
def variables(config):
    return randomize(init_variables(config_lib.model_from(config), 0))


class Net(nn.Module):
    """A network that sees one pixel."""

    num_classes: int = 3
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(1.5))(images)


class Applied:
    """What `Sampled` needs, of the net."""

    def __init__(self, config, temperature=1.0):
        self.net, config = Net(), config.copy_and_resolve_references()
        self.variables = self.net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        config.eval.temperature = temperature
        self.labeller, self.preprocessing = labeller(self.net, config), settings.preprocessing(config)

    def probabilities(self, image):
        return self.labeller.probabilities(self.variables, image)

    def sums(self, source):
        return sum_over(self.net, self.preprocessing, self.labeller, self.variables, source)


def nll(applied, samples, temperature):
    """The mean over all pixels that are not void, of the network's probabilities at temperature 1."""
    total, count = 0.0, 0
    for sample in samples:
        logits = np.log(applied.probabilities(sample["image"]).astype(np.float64)) / temperature
        label = sample["label"]
        own = special.log_softmax(logits, -1)[label != 255]
        total -= own[np.arange(len(own)), label[label != 255]].sum()
        count += len(own)
    return total / count


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_a_temperature_is_that_of_the_least_nll(config, temperature):
    applied = Applied(config)
    source = Sampled(Applied(config, temperature), [(64, 64), (50, 61), (40, 64)])
    found = fit(*applied.sums(source))
    expected = optimize.minimize_scalar(lambda u: nll(applied, source.samples, np.exp(u)), options={"xtol": 1e-9})
    np.testing.assert_allclose(found.temperature, np.exp(expected.x), rtol=1e-4)
    np.testing.assert_allclose(found.temperature, temperature, rtol=0.1)
    np.testing.assert_allclose(
        [found.nll_before, found.nll], [nll(applied, source.samples, 1), expected.fun], rtol=1e-5
    )
    assert found.pixels == sum((sample["label"] != 255).sum() for sample in source.samples)


@pytest.mark.slow
def test_a_temperature_is_pytorchs(config):
    """As Guo et al. fit it: LBFGS on the temperature itself."""
    torch = pytest.importorskip("torch")
    applied, source = Applied(config), Sampled(Applied(config, 1.7), [(64, 64)])
    (sample,) = source.samples
    is_counted = torch.from_numpy(sample["label"] != 255)
    logits = torch.from_numpy(np.log(applied.probabilities(sample["image"]))).double()[is_counted]
    label = torch.from_numpy(sample["label"]).long()[is_counted]
    temperature = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.1, max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits / temperature, label)
        value.backward()
        return value

    optimizer.step(loss)
    assert fit(*applied.sums(source)).temperature == pytest.approx(temperature.item(), rel=1e-4)


def test_windows_are_calibrated_one_by_one(config):
    """An image of four windows side by side gives what four images do; one that is smaller is padded with void."""
    config.eval.update(window=64, stride=64)
    applied, source = Applied(config), Sampled(Applied(config, 2.0), [(128, 128)])
    whole = applied.sums(source)
    (sample,) = source.samples
    corners = [(slice(y, y + 64), slice(x, x + 64)) for y in (0, 64) for x in (0, 64)]
    source.samples = [{key: sample[key][corner] for key in ("image", "label")} for corner in corners]
    parts = applied.sums(source)
    assert whole[1] == parts[1] == (sample["label"] != 255).sum()
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-6)
    source.samples = [{key: sample[key][:40, :50] for key in ("image", "label")}]
    assert applied.sums(source)[1] == (sample["label"][:40, :50] != 255).sum()


def test_labels_that_no_temperature_fits(config):
    """All right, the temperature falls to 0; all wrong, it rises without end; without a pixel there is none."""
    applied = Applied(config)
    source = Sampled(applied, [(64, 64)])
    p = applied.probabilities(source.samples[0]["image"])
    for label in (p.argmax(-1), p.argmin(-1), np.full(p.shape[:2], 255)):
        source.samples[0]["label"] = label.astype(np.uint8)
        assert fit(*applied.sums(source)) is None


class FewShapes(ShapesSource):
    """The first samples alone."""

    def __len__(self):
        return 3


@pytest.mark.slow
def test_an_evaluation_measures_it(config, variables):
    """On a mesh, in batches, with void; against the probabilities of each image by itself."""
    config.mesh.update(data=2, space=1)
    config.eval.update(batch_size=2, temperature=0.5)
    source = FewShapes("val")
    evaluation = evaluator(source, mesh_of(config, jax.devices()[:2]), config)(variables)
    result, segmenter, seen = result_of(evaluation, config, 3), make_segmenter(config, variables), []
    for i in range(3):
        p, label = segmenter.probabilities(source[i]["image"]).astype(np.float64), source[i]["label"]
        seen.append(np.stack([p.max(-1), p.argmax(-1) == label], -1)[label != 255])
    error, _ = expected_error(*np.concatenate(seen).T)
    np.testing.assert_allclose(result["calibration"]["ece"], error, atol=1e-3)
    assert sum(b["count"] for b in result["calibration"]["bins"]) == np.sum(result["confusion_matrix"])
    assert result["protocol"]["temperature"] == 0.5


@pytest.fixture
def trained(config, variables, tmp_path, monkeypatch):
    """A run with random weights, whose val images have labels drawn at a temperature of 2: its config and workdir."""
    workdir = tmp_path / "run"
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(init_state(variables, settings.recipe(config)), {"batches": 0})
    saved_config.save(config, workdir)
    source = Sampled(segmenter_of(config, variables, temperature=2.0), [(64, 64)])
    for mode in (calibrate, evaluate):
        monkeypatch.setattr(mode, "open_source", lambda *args: source)
    config.mesh.data = 1
    return config, workdir, source


@pytest.mark.slow
def test_a_calibrated_model(trained, tmp_path, capfd):
    """From one fit on, eval, predict, load and an exported file have it; the labels stay."""
    config, workdir, source = trained
    image = source.samples[0]["image"]
    before, plain = evaluate.run({workdir: config})[str(workdir)], load(workdir)
    calibrate.run(config, workdir)
    kept = json.loads((workdir / "temperature.json").read_text())
    temperature = kept["temperature"]
    assert temperature == pytest.approx(2, rel=0.1)
    assert kept["nll"] < kept["nll_before"]
    assert re.search(r"temperature [\d.]+: mean NLL", capfd.readouterr().out)
    after = evaluate.run({workdir: config})[str(workdir)]
    assert after["calibration"]["ece"] < before["calibration"]["ece"] / 2
    assert after["confusion_matrix"] == before["confusion_matrix"]
    assert after["protocol"] == {**before["protocol"], "temperature": temperature}
    logits = np.log(plain.probabilities(image).astype(np.float64))
    expected = special.softmax(logits / temperature, -1)
    export.run(config, workdir, tmp_path / "model.safetensors")
    given = segmenter_of(config, plain.variables, temperature=temperature)
    for model in (load(workdir), load(tmp_path / "model.safetensors"), given):
        np.testing.assert_allclose(model.probabilities(image), expected, atol=1e-5)
        np.testing.assert_array_equal(model.predict(image), plain.predict(image))
    for model in (load(workdir, temperature=1), load(tmp_path / "model.safetensors", temperature=1)):
        np.testing.assert_array_equal(model.probabilities(image), plain.probabilities(image))
    calibrate.run(config, tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "model.temperature.json").read_text()) == kept


def test_a_temperature_belongs_to_a_step(config, tmp_path, capfd):
    workdir = tmp_path

    def used(temperature=0):
        config.eval.temperature = float(temperature)
        found = settled(config, workdir, 0).eval.temperature
        assert config.eval.temperature == temperature
        return found

    assert used() == 1
    (workdir / "temperature.json").write_text('{"temperature": 3, "step": 0}')
    assert (used(), used(2), used(1)) == (3, 2, 1)
    assert not capfd.readouterr().err
    (workdir / "temperature.json").write_text('{"temperature": 3, "step": 5}')
    assert used() == 1
    assert "temperature.json: not used: it was fitted for step 5, not 0; fit it again" in capfd.readouterr().err
    for damaged in ("{", "[]", '{"step": 0}', '{"temperature": NaN, "step": 0}', '{"temperature": -1, "step": 0}'):
        (workdir / "temperature.json").write_text(damaged)
        with pytest.raises(UserError, match=r"temperature.json: damaged \(.*delete it, or fit it again: --mode=calib"):
            used()


def test_what_calibrate_refuses(trained):
    config, workdir, source = trained
    config.eval.temperature = 1.0
    with pytest.raises(UserError, match=r"config.eval.temperature=1: --mode=calibrate finds one; leave it at 0"):
        calibrate.run(config, workdir)
    config.eval.temperature = 0.0
    for sample in source.samples:
        sample["label"][:] = 255
    with pytest.raises(UserError, match=r"config.data.eval=shapes/val: no temperature from 0.05 to 20 fits"):
        calibrate.run(config, workdir)
    assert not (workdir / "temperature.json").exists()
    for wrong in (-1.0, float("inf"), float("nan")):
        config.eval.temperature = wrong
        with pytest.raises(UserError, match=r"config.eval.temperature must be positive, or 0 for what is kept"):
            config_lib.validate(config)
