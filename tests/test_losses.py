"""The losses beyond the paper's against PyTorch's and against formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcn_jax.training.losses import Loss, parse

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
