"""Batch norm's statistics, taken anew: against NumPy's over the same activations."""

import jax
import numpy as np
import pytest

from gcn_jax.checkpoints.manager import load_variables
from gcn_jax.config import settings
from gcn_jax.data.sources import open_source
from gcn_jax.errors import UserError
from gcn_jax.models import build_model, init_variables
from gcn_jax.models.layers import Conv
from gcn_jax.modes import train
from gcn_jax.training.batch_norm import reestimate_statistics
from tests.helpers import randomize, train_batches


def test_statistics_are_those_of_all_activations():
    model = build_model(3, "resnet14", 3, width=4, freeze="res3")
    variables = randomize(init_variables(model, 0))
    rng = np.random.default_rng(0)
    batches = [(i + 1) * rng.standard_normal((2, 64, 64, 3)).astype(np.float32) + i for i in range(3)]
    found = reestimate_statistics(model, variables, batches)

    trained = build_model(3, "resnet14", 3, width=4, norm="train")

    @jax.jit
    def activations(images):
        kept = ["intermediates", "batch_stats"]

        def is_conv(module, _):
            return isinstance(module, Conv)

        return trained.apply(variables, images, True, mutable=kept, capture_intermediates=is_conv)[1]["intermediates"]

    outputs = [activations(images)["backbone"] for images in batches]
    checked = 0
    for path, statistic in jax.tree_util.tree_leaves_with_path(found["batch_stats"]["backbone"]):
        *block, norm, kind = (entry.key for entry in path)
        values = []
        for output in outputs:
            for name in (*block, norm.replace("norm", "conv"), "__call__"):
                output = output[name]
            values.append(np.asarray(output[0], np.float64))
        expected = {"mean": np.mean, "var": np.var}[kind](np.concatenate(values), axis=(0, 1, 2))
        np.testing.assert_allclose(statistic, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        checked += 1
    assert checked == 2 * (1 + 4 * 4)
    assert jax.tree.all(jax.tree.map(np.array_equal, found["params"], variables["params"]))


@pytest.mark.slow
def test_training_starts_from_them(config, tmp_path):
    """Against PyTorch's statistics of the same images, batch by batch, averaged as moments."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    from bench import twin as twin_lib

    config.update(num_steps=1, eval_every=10)
    config.model.norm, config.mesh.data = "frozen", 2
    config.reestimate.update(batches=3, batch_size=4)
    train.run(config, tmp_path / "run")
    _, variables = load_variables(tmp_path / "run", "latest", averaged=False)

    sizes, num_classes = (1, 1, 1, 1), 6
    twin = twin_lib.Twin(num_classes, sizes, config.model.width, config.model.kernel_size).train()
    names = twin_lib.load(twin, init_variables(settings.model_from(config), config.seed), sizes)
    norms = {name: module for name, module in twin.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    moments = {name: [] for name in norms}
    for name, module in norms.items():

        def note(module, inputs, output, kept=moments[name]):
            values = inputs[0].double()
            kept.append([(values**power).mean((0, 2, 3)) for power in (1, 2)])

        module.register_forward_hook(note)
    config.update(num_steps=3, batch_size=4)
    for batch in train_batches(open_source("train", settings.datasets(config)), config):
        images = (batch["image"] - np.float32(config.data.mean)) / np.float32(config.data.std)
        with torch.no_grad():
            twin(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    statistics = {ours: value for ours, value in twin_lib.flatten(variables).items() if ours.endswith(("mean", "var"))}
    assert len(statistics) == 2 * len(norms) == 2 * (1 + 4 * 4)
    for ours, value in statistics.items():
        module, _, kind = names[ours].rpartition(".")
        assert len(moments[module]) == 3
        mean, square = (torch.stack(kept).mean(0) for kept in zip(*moments[module], strict=True))
        expected = mean if kind == "running_mean" else square - mean**2
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5, err_msg=ours)


def test_what_cannot_be_is_said(config, tmp_path):
    model = build_model(3, "resnet14", 3, width=4)
    variables = init_variables(model, 0)
    images = np.zeros((1, 32, 32, 3), np.float32)
    with pytest.raises(ValueError, match="at least one batch"):
        reestimate_statistics(model, variables, [])
    with pytest.raises(ValueError, match=r"of one shape. Got \(1, 32, 32, 3\) and \(2, 32, 32, 3\)"):
        reestimate_statistics(model, variables, [images, np.zeros((2, 32, 32, 3), np.float32)])
    with pytest.raises(ValueError, match="not finite"):
        reestimate_statistics(model, variables, [images + np.nan])
    config.reestimate.update(batches=1, batch_size=3)
    config.mesh.data = 2
    with pytest.raises(UserError, match=r"config\.reestimate\.batch_size=3 does not divide over config\.mesh\.data=2"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
