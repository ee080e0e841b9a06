"""The losses beyond the paper's against PyTorch's and against formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.runtime.mesh import make_mesh
from gcn_jax.training.losses import Loss, class_weights, parse

torch = pytest.importorskip("torch", reason="compares with PyTorch")
WEIGHTS = (0.5, 2.0, 1.0, 3.0)


@pytest.fixture
def case():
    """Logits of four classes and labels with void; class 2 does not occur."""
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([0, 1, 3, 255], np.uint8), (2, 12, 10), p=[0.5, 0.2, 0.1, 0.2])
    return 3 * rng.standard_normal((2, 12, 10, 4)).astype(np.float32), label


def check(loss, case, expected):
    """Values and gradients of ours against a function of float64 logits [N, C] and labels [N], those without void."""
    logits, label = case
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(label))
    theirs = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    is_counted = torch.from_numpy(label != 255)
    their_value = expected(theirs[is_counted], torch.from_numpy(label)[is_counted].long())
    their_value.backward()
    np.testing.assert_allclose(value, their_value.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-5, atol=1e-5 * theirs.grad.abs().max().item())


@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_pytorchs(case, weights, label_smoothing, reduction):
    weight = torch.tensor(weights, dtype=torch.float64) if weights else None
    theirs = torch.nn.CrossEntropyLoss(weight, label_smoothing=label_smoothing, reduction=reduction)
    check(Loss(weights=weights, label_smoothing=label_smoothing, reduction=reduction), case, theirs)


@pytest.mark.parametrize(("share", "least", "kept"), [(0.25, 0, 0.25), (0.1, 60, None), (0.5, 10**6, 1.0)])
def test_the_hardest_pixels_are_counted(case, share, least, kept):
    def theirs(logits, label):
        losses = torch.nn.functional.cross_entropy(logits, label, reduction="none")
        count = 60 if kept is None else int(np.ceil(kept * len(losses)))
        return losses.topk(count).values.mean()

    check(Loss(hardest=share, hardest_min=least), case, theirs)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_focal(case, gamma, weights):
    def theirs(logits, label):
        probability = logits.softmax(-1).gather(-1, label[:, None])[:, 0]
        weight = torch.tensor(weights or (1.0,) * 4, dtype=torch.float64)[label]
        return -(weight * (1 - probability) ** gamma * probability.log()).sum() / weight.sum()

    check(Loss("focal", focal_gamma=gamma, weights=weights), case, theirs)


def test_dice(case):
    def theirs(logits, label):
        truth = torch.nn.functional.one_hot(label, 4).double()
        probability = logits.softmax(-1)
        scores = 2 * (probability * truth).sum(0) / (probability.sum(0) + truth.sum(0))
        return (1 - scores)[truth.sum(0) > 0].mean()

    check(Loss("dice"), case, theirs)


def test_lovasz_is_the_extension_of_the_jaccard_loss(case):
    def theirs(logits, label):
        """By the definition: the Jaccard losses of the growing sets of the worst pixels, weighted by error gaps."""
        losses = []
        for k in label.unique():
            truth = label == k
            errors = (truth.double() - logits.softmax(-1)[:, k]).abs()
            order = errors.argsort(descending=True)
            levels = torch.cat([errors[order], torch.zeros(1, dtype=torch.float64)])
            loss = 0
            for i in range(len(order)):
                wrong = torch.zeros_like(truth)
                wrong[order[: i + 1]] = True
                predicted = truth ^ wrong
                jaccard = 1 - (predicted & truth).sum().double() / (predicted | truth).sum()
                loss = loss + (levels[i] - levels[i + 1]) * jaccard
            losses.append(loss)
        return torch.stack(losses).mean()

    check(Loss("lovasz"), case, theirs)


def test_sums(case):
    logits, label = map(jnp.asarray, case)
    both = Loss("cross_entropy+0.5*lovasz + .25*dice")(logits, label)
    parts = [
        factor * Loss(name)(logits, label) for factor, name in ((1, "cross_entropy"), (0.5, "lovasz"), (0.25, "dice"))
    ]
    np.testing.assert_allclose(both, sum(parts), rtol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice", "lovasz"])
@pytest.mark.parametrize("options", [{}, {"weights": WEIGHTS, "label_smoothing": 0.1, "hardest": 0.5}])
def test_a_batch_of_void_and_a_sure_pixel_give_finite_gradients(name, options):
    loss = Loss(name, **options)
    void = jnp.full((1, 4, 4), 255, jnp.uint8)
    value, gradient = jax.value_and_grad(loss)(jnp.ones((1, 4, 4, 4)), void)
    assert value == 0
    assert not gradient.any()
    sure = 1000.0 * jax.nn.one_hot(jnp.zeros((1, 4, 4), int), 4)
    for label in (0, 3):
        value, gradient = jax.value_and_grad(loss)(sure, jnp.full((1, 4, 4), label, jnp.uint8))
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["", "crossentropy", "dice+", "2dice", "-1*dice", "dice+dice", "1e3*dice", "dice*2"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"the loss is a sum of cross_entropy"):
        parse(name)


@pytest.mark.parametrize("mesh", [pytest.param((8, 1), marks=pytest.mark.slow), (2, 4)])
def test_on_a_mesh_a_loss_is_that_of_the_whole_batch(mesh):
    loss = Loss("cross_entropy+dice+lovasz+focal", weights=WEIGHTS, hardest=0.3)
    rng = np.random.default_rng(1)
    label = rng.choice(np.array([0, 1, 3, 255], np.uint8), (8, 8, 6))
    logits = rng.standard_normal((8, 8, 6, 4)).astype(np.float32)
    expected = jax.value_and_grad(loss)(jnp.asarray(logits), jnp.asarray(label))
    sharding = jax.sharding.NamedSharding(make_mesh(*mesh), jax.sharding.PartitionSpec("data", "space"))
    found = jax.jit(jax.value_and_grad(loss))(*(jax.device_put(x, sharding) for x in (logits, label)))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-7)


def test_class_weights_by_hand():
    pixels = np.array([8, 4, 0, 1])
    np.testing.assert_allclose(class_weights("median_frequency", pixels), [0.5, 1, 0, 4])
    np.testing.assert_allclose(class_weights("inverse", pixels), np.array([1, 2, 0, 8]) * 3 / 11)
    share = 12 / 13
    effective = np.array([(1 - share) / (1 - share**n) if n else 0 for n in pixels])
    np.testing.assert_allclose(class_weights("effective_number", pixels), effective * 3 / effective.sum())


def test_class_weights_of_a_config(config):
    config.loss.class_weights = "1,2,3,4,5,6"
    assert settings.loss(config).weights == (1, 2, 3, 4, 5, 6)
    config.loss.class_weights = "inverse"
    pixels = np.zeros(256, np.int64)
    pixels[:6], pixels[255] = [1, 1, 1, 1, 1, 2], 99
    np.testing.assert_allclose(settings.loss(config, pixels).weights, np.array([2, 2, 2, 2, 2, 1]) * 6 / 11)
    config.loss.class_weights = "1,2"
    with pytest.raises(UserError, match=r"config\.loss\.class_weights: 2 weights, but the data have 6 classes"):
        settings.loss(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"loss.name": "dice", "loss.class_weights": "inverse"},
            r"loss\.class_weights='inverse' has no effect without",
        ),
        ({"loss.name": "focal", "loss.label_smoothing": 0.1}, r"loss\.label_smoothing=0\.1 has no effect without"),
        ({"loss.hardest_min": 9}, r"loss\.hardest_min=9 has no effect without config\.loss\.hardest below 1"),
        ({"loss.name": "cross_entropy+dice", "optimizer.loss": "sum"}, r"optimizer\.loss='sum' has no effect"),
        ({"loss.name": "lovas"}, r"config\.loss\.name must be a sum of .* Got 'lovas'"),
        ({"loss.class_weights": "1,x"}, r"config\.loss\.class_weights must be numbers"),
        ({"optimizer.betas": (0.9, 0.99)}, r"optimizer\.betas=\(0\.9, 0\.99\) has no effect without .*adamw"),
    ],
)
def test_options_that_would_do_nothing_are_refused(config, values, message):
    for key, value in values.items():
        group, name = key.split(".")
        config[group][name] = value
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)
