"""Overlapping masks: a pixel may have none, one or several classes. Data, losses, scores, pictures and whole runs."""

import dataclasses
import importlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

import gcn_jax
from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data.batches import Augmentation
from gcn_jax.data.legend import NO_CLASS
from gcn_jax.data.outputs import endings
from gcn_jax.data.pictures import one_class, overlay
from gcn_jax.data.sources import open_sources, open_splits, trained_pixels
from gcn_jax.data.transforms import crop
from gcn_jax.errors import UserError
from gcn_jax.evaluation.multi_label import SCORES, MultiLabelCounts
from gcn_jax.evaluation.score import check_score
from gcn_jax.inference import temperature
from gcn_jax.inference.maps import LEVELS, measured_of_each
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.models import init_variables
from gcn_jax.models.preprocessing import Preprocessing
from gcn_jax.modes.prepare import count_table
from gcn_jax.runtime.mesh import make_mesh
from gcn_jax.training.multi_label import MultiLabelLoss
from tests.coco_data import HEIGHT, WIDTH, box, content, label, write
from tests.command_line import refused, run
from tests.helpers import CHANGES, blocks, randomize
from tests.overlapping_shapes import CLASSES, SIDE, draw
from tests.overlapping_shapes import write as write_shapes

WEIGHTS = (0.5, 2.0, 1.0)


@pytest.fixture
def overlapping(config, tmp_path):
    """A config of a folder, of which `tests.overlapping_shapes.write` is to be called."""
    config.data.update(train="folder/train", eval="folder/val", multi_label=True)
    config.data_dir = str(tmp_path / "mine")
    return config


def opened(config):
    """All samples by their names, as a run sees them at its start."""
    config_lib.validate(config)
    samples = [source[i] for source in open_sources(settings.datasets(config)) for i in range(len(source))]
    return {sample["image_id"]: sample for sample in samples}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path)


# The user's own folders.


@pytest.mark.parametrize("values", [(0, 255), (0, 1)])
def test_masks_of_classes_are_read(overlapping, tmp_path, values):
    root = write_shapes(tmp_path / "mine", values=values)
    samples = opened(overlapping)
    assert tuple(overlapping.data.classes) == CLASSES
    assert len(samples) == 10
    for name, sample in samples.items():
        image, planes = draw(int(name))
        np.testing.assert_array_equal(sample["image"], image)
        np.testing.assert_array_equal(sample["label"], planes, strict=False)
        assert sample["label"].dtype == np.uint8
    assert not (root / "masks/stripe/3.png").exists()
    splits = open_splits(settings.datasets(overlapping))
    for split in splits.values():
        planes = np.array([split[i]["label"] for i in range(len(split))])
        pixels = split.pixels()
        assert pixels[:3].tolist() == planes.sum((0, 1, 2)).tolist()
        assert pixels[NO_CLASS] == len(split) * SIDE**2
        presence = split.class_presence()
        np.testing.assert_array_equal(presence[:, :3], planes.any((1, 2)))
        assert not presence[:, 3:].any()
    spec = settings.spec_from(overlapping)
    assert spec.multi_label
    assert spec.classes[0].color != (0, 0, 0)
    table = count_table({"folder/train": (8, splits["folder/train"].pixels())}, spec)
    assert table.splitlines()[-1].split() == ["pixels", f"{8 * SIDE**2:,}"]
    assert trained_pixels(settings.datasets(overlapping), splits)[:3].all()


def test_a_mask_may_have_any_form(overlapping, tmp_path):
    """One bit, grey, RGB, palettes; black and white in the palette, whichever comes first."""
    plane = np.zeros((20, 30), np.uint8)
    plane[3:9, 4:20] = 1
    inverted = Image.fromarray(1 - plane, "L")
    inverted.putpalette([255, 255, 255, 0, 0, 0])
    upright = Image.fromarray(plane, "L")
    upright.putpalette([0, 0, 0, 200, 10, 10])
    forms = {
        "bit": Image.fromarray(plane.astype(bool)),
        "grey": plane * np.uint8(255),
        "deep": plane.astype(np.uint16) * 65535,
        "rgb": np.stack([plane * np.uint8(255)] * 3, -1),
        "inverted": inverted,
        "palette": upright,
    }
    for i in range(3):
        save(tmp_path / f"mine/images/{i}.png", np.zeros((20, 30, 3), np.uint8))
        for name, mask in forms.items():
            save(tmp_path / f"mine/masks/{name}/{i}.png", mask)
    for sample in opened(overlapping).values():
        np.testing.assert_array_equal(sample["label"], np.stack([plane] * len(forms), -1))


def test_255_beside_1_is_void(overlapping, tmp_path, capsys):
    root = write_shapes(tmp_path / "mine", values=(0, 1))
    void = np.array(Image.open(root / "masks/disk/2.png"))
    void[:5] = 255
    save(root / "masks/disk/2.png", void)
    found = opened(overlapping)["2"]["label"]
    np.testing.assert_array_equal(found[..., 0], void)
    np.testing.assert_array_equal(found[..., 1], draw(2)[1][..., 1])
    save(root / "masks/disk/4.png", np.where(draw(4)[1][..., 0], 255, 0).astype(np.uint8))
    with pytest.raises(UserError, match=r"masks/disk/4\.png: holds 255 but no 1, .*'void 255' into classes\.txt"):
        opened(overlapping)
    (root / "classes.txt").write_text("\n".join([*CLASSES, "void 255"]))
    overlapping.data.classes = ()
    found = opened(overlapping)["4"]["label"]
    np.testing.assert_array_equal(found[..., 0], np.where(draw(4)[1][..., 0], 255, 0))


def test_a_list_orders_the_classes_and_an_image_may_hold_none(overlapping, tmp_path, capsys):
    root = write_shapes(tmp_path / "mine")
    (root / "classes.txt").write_text("stripe 10 20 30\nbird\ndisk\nsquare\n")
    save(root / "images/none.png", np.zeros((24, 40, 3), np.uint8))
    samples = opened(overlapping)
    assert "hold no pixel of bird" in capsys.readouterr().err
    np.testing.assert_array_equal(samples["1"]["label"], np.insert(draw(1)[1], 0, 0, -1)[..., [3, 0, 1, 2]])
    assert samples["none"]["label"].shape == (24, 40, 4)
    assert not samples["none"]["label"].any()


def test_splits_may_be_folders_and_masks_have_endings(overlapping, tmp_path):
    for split, number in (("train", 1), ("val", 2)):
        image, planes = draw(number)
        save(tmp_path / f"mine/{split}/images/sub/{number}.png", image)
        save(tmp_path / f"mine/{split}/masks/disk/sub/{number}_mask.png", planes[..., 0])
        save(tmp_path / f"mine/{split}/masks/square/sub/{number}_mask.png", planes[..., 1])
    samples = opened(overlapping)
    assert list(samples) == ["train/sub/1", "val/sub/2"]
    np.testing.assert_array_equal(samples["val/sub/2"]["label"], draw(2)[1][..., :2])


@pytest.mark.parametrize("form", ["masks/{split}/{name}", "masks/{name}/{split}"])
def test_splits_may_be_folders_of_images(overlapping, tmp_path, form):
    for split, number in (("train", 1), ("val", 2), ("test", 4)):
        image, planes = draw(number)
        save(tmp_path / f"mine/images/{split}/{number}.png", image)
        for i, name in enumerate(("train", "square")):  # a class may be called so, too
            save(tmp_path / "mine" / form.format(split=split, name=name) / f"{number}.png", planes[..., i])
    samples = opened(overlapping)
    assert list(samples) == ["train/1", "val/2"]
    assert tuple(overlapping.data.classes) == ("square", "train")
    np.testing.assert_array_equal(samples["val/2"]["label"], draw(2)[1][..., [1, 0]])


def test_photographs_are_turned_unless_their_masks_fit_as_stored(overlapping, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    plane = np.zeros((20, 30), np.uint8)
    plane[:5] = 255
    for i in range(4):
        (tmp_path / "mine/images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"mine/images/{i}.jpg", exif=exif)
        if i < 3:
            save(tmp_path / f"mine/masks/a/{i}.png", plane if i == 0 else np.rot90(plane, -1))
    save(tmp_path / "mine/masks/b/1.png", np.rot90(plane, -1))
    shapes = {name: sample["label"].shape for name, sample in opened(overlapping).items()}
    assert shapes == {"0": (20, 30, 2), "1": (30, 20, 2), "2": (30, 20, 2), "3": (30, 20, 2)}
    assert all(s["image"].shape[:2] == s["label"].shape[:2] for s in opened(overlapping).values())


def _soft(root):
    save(root / "masks/disk/2.png", np.full((SIDE, SIDE), 77, np.uint8))


def _loose(root):
    save(root / "masks/2.png", np.zeros((SIDE, SIDE), np.uint8))


def _lonely(root):
    save(root / "masks/disk/other.png", np.zeros((SIDE, SIDE), np.uint8))


def _small(root):
    save(root / "masks/disk/2.png", np.zeros((SIDE, SIDE - 1), np.uint8))


def _strange(root):
    (root / "classes.txt").write_text("disk\nsquare\n")


def _named(root):
    (root / "masks/disk").rename(root / "masks/void")


def _single(root):
    for name in CLASSES[1:]:
        (root / f"masks/{name}").rename(root / f"other_{name}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_soft, r"masks/disk/2\.png: value 77 \(first at row 0, column 0\); the mask of one class holds 0 and 1"),
        (_loose, r"masks/2\.png: is in no folder of a class; expected masks/CLASS/NAME\.png"),
        (_lonely, r"masks/disk/other\.png: has no image; expected images/other\.jpg"),
        (_small, r"masks/\w+/2\.png: the mask is 6\dx64 pixels, but .*masks/\w+/2\.png 6\dx64"),
        (_strange, r"masks/stripe/\d\.png: 'stripe' is none of the classes of .*classes\.txt"),
        (_named, r"the folder of masks 'void' cannot be the name of a class"),
        (_single, r"1 classes; there must be 2 to 254; one class alone: configs/folder\.py:binary"),
    ],
)
def test_what_is_wrong_is_named(overlapping, tmp_path, spoil, message):
    spoil(write_shapes(tmp_path / "mine"))
    with pytest.raises(UserError, match=message):
        opened(overlapping)


def test_the_other_kind_of_folder_is_told(overlapping, tmp_path):
    write_shapes(tmp_path / "mine")
    overlapping.data.multi_label = False
    with pytest.raises(
        UserError, match=r"expected masks/0\.png; if .*masks/disk/0\.png is its mask of one class: .*:mul"
    ):
        opened(overlapping)


def test_annotations_keep_a_mask_for_each_category(config, tmp_path):
    """The cat goes on below the dog; a crowd is void for its category alone, an annotation called void for all."""
    what = content({number: f"{number}.png" for number in range(1, 6)})
    crowd = {"id": 90, "image_id": 1, "category_id": 1, "segmentation": [box(0, 0, 32, 2)], "iscrowd": 1, "area": 64}
    hidden = {"id": 91, "image_id": 2, "category_id": 3, "segmentation": [box(0, 0, 4, 24)], "area": 96}
    what["categories"].append({"id": 3, "name": "void"})
    what["annotations"] += [crowd, hidden]
    write(tmp_path / "mine/annotations.json", what)
    for number in range(1, 6):
        save(tmp_path / f"mine/{number}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    config.data.update(train="coco/train", eval="coco/val", multi_label=True)
    config.data_dir = str(tmp_path / "mine")
    samples = opened(config)
    assert tuple(config.data.classes) == ("cat", "dog")
    for name, sample in samples.items():
        expected = np.stack([label(int(name)) > 0, label(int(name)) == 2], -1).astype(np.uint8)
        if name == "1":
            expected[:2, :, 0] = 255
        if name == "2":
            expected[:, :4][expected[:, :4] == 0] = 255
        np.testing.assert_array_equal(sample["label"], expected)
    splits = open_splits(settings.datasets(config))
    pixels = sum(split.pixels() for split in splits.values())
    planes = np.array([sample["label"] for sample in samples.values()])
    assert pixels[:2].tolist() == (planes == 1).sum((0, 1, 2)).tolist()
    assert (pixels[255], pixels[NO_CLASS]) == ((planes == 255).sum(), planes[..., 0].size)
    config.data.update(classes=("bird", "dog", "cat"))
    np.testing.assert_array_equal(opened(config)["3"]["label"][..., 1:], planes[list(samples).index("3")][..., ::-1])


# What happens to labels.


@pytest.mark.parametrize("changes", [{}, {**CHANGES, "max_class_share": 1.0, "mix": "cutmix", "place_anywhere": True}])
def test_each_plane_changes_as_a_label_by_itself(changes):
    rng = np.random.default_rng(0)
    samples = [blocks(90, 70, seed) for seed in range(2)]
    planes = [rng.choice(np.uint8([0, 1, 255]), (*sample["label"].shape, 4)) for sample in samples]
    augmentation = Augmentation(size=64, mean=(124, 116, 104), **changes)

    def drawn(labels, seed):
        rng = np.random.default_rng(seed)
        first, second = (augmentation.draw({**s, "label": own}, rng) for s, own in zip(samples, labels, strict=True))
        if augmentation.mix:
            first = augmentation.paste(first, second, rng)
        return augmentation.assemble([first], 1)["label"]

    for seed in range(8):
        together = drawn(planes, seed)
        assert together.shape == (1, 64, 64, 4)
        for i in range(4):
            np.testing.assert_array_equal(together[..., i], drawn([plane[..., i] for plane in planes], seed))


def test_classmix_pastes_the_pixels_of_half_of_the_classes():
    image, planes = draw(1)
    second = {"image": image, "label": planes.astype(np.uint8), "image_id": "b"}
    first = {"image": np.zeros_like(image), "label": np.zeros_like(planes, np.uint8), "image_id": "a"}
    augmentation = Augmentation(size=SIDE, mean=(124, 116, 104), mix="classmix", mix_share=1.0)
    chosen = set()
    for seed in range(20):
        mixed, _ = augmentation.paste((first, (0, 0)), (second, (0, 0)), np.random.default_rng(seed))
        pasted = mixed["image"].any(-1)
        (match,) = (i for i in range(3) if (planes[..., i] & image.any(-1) == pasted).all())
        chosen.add(match)
        np.testing.assert_array_equal(mixed["label"], planes * planes[..., match, None])
    assert chosen == {0, 1, 2}


def test_a_crop_of_no_class_is_drawn_again():
    planes = np.zeros((40, 400, 2), np.uint8)
    planes[:, 360:, 0] = 1
    planes[:20, :40, 1] = 255
    sample = {"image": np.zeros((40, 400, 3), np.uint8), "label": planes, "image_id": "a"}
    held = [crop(sample, 40, np.random.default_rng(i), max_class_share=0.9)["label"] for i in range(60)]
    plain = [crop(sample, 40, np.random.default_rng(i))["label"] for i in range(60)]
    held, plain = (np.mean([(label == 1).any() for label in labels]) for labels in (held, plain))
    assert held > 3 * plain > 0


def test_overlaps_are_drawn_as_stripes_of_their_classes():
    _, planes = draw(7)
    planes = planes.astype(np.uint8)
    planes[:3, :3] = 255
    shown = one_class(planes)
    counts = (planes == 1).sum(-1)
    assert (shown[:3, :3] == 255).all()
    for value in np.unique(shown):
        here = shown == value
        if value < 3:
            assert planes[here][:, value].all()
        elif value == NO_CLASS:
            assert not counts[here].any()
    for pair in ((0, 1), (0, 2), (1, 2)):
        both = (planes[..., pair] == 1).all(-1) & (counts == 2)
        if both.sum() > 100:
            assert {*np.unique(shown[both])} == {*pair}
    assert (counts == 2).sum() > 100
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    tinted = (overlay(image, planes, np.full((256, 3), 200, np.uint8)) != 90).any(-1)
    np.testing.assert_array_equal(tinted, counts > 0)


def test_files_of_classes_are_safe_and_refused_if_they_are_one():
    assert endings(["mask", "overlay"], classes=["traffic light", "a/b", "été"]) == {
        "overlay": "_overlay.jpg",
        "mask/0": "_traffic_light.png",
        "mask/1": "_a_b.png",
        "mask/2": "_été.png",
    }
    assert endings(["mask"], of_raster=True, classes=["x"]) == {"mask/0": "_x.tif"}
    with pytest.raises(UserError, match=r"classes 'a b' and 'A/b' would both be called NAME_A_b\.png"):
        endings(["mask"], classes=["a b", "c", "A/b"])


# Losses.


@pytest.fixture
def case():
    """Logits of three classes and labels with void; class 1 does not occur."""
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (2, 12, 10, 3), p=[0.6, 0.2, 0.2])
    label[..., 1] = np.where(label[..., 1] == 1, 0, label[..., 1])
    return 3 * rng.standard_normal(label.shape).astype(np.float32), label


def check(loss, case, expected):
    """Values and gradients of ours against a function of float64 logits, labels, and which count: all [B, H, W, C]."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    logits, label = case
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(label))
    theirs = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    known = torch.from_numpy(label != 255)
    their_value = expected(torch, theirs, torch.from_numpy((label == 1).astype(float)), known)
    their_value.backward()
    np.testing.assert_allclose(value, their_value.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-5, atol=1e-5 * theirs.grad.abs().max().item())


@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_is_pytorchs_with_logits(case, weights, smoothing, reduction):
    def theirs(torch, logits, truth, known):
        positive = torch.tensor(weights, dtype=torch.float64) if weights else None
        binary = torch.nn.BCEWithLogitsLoss(pos_weight=positive, reduction="none")
        losses = binary(logits, truth * (1 - smoothing) + smoothing / 2)[known]
        return losses.mean() if reduction == "mean" else losses.sum()

    check(MultiLabelLoss(weights=weights, label_smoothing=smoothing, reduction=reduction), case, theirs)


def test_the_hardest_decisions_are_counted(case):
    def theirs(torch, logits, truth, known):
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")[known]
        return losses.topk(int(np.ceil(0.25 * len(losses)))).values.mean()

    check(MultiLabelLoss(hardest=0.25), case, theirs)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_focal(case, gamma, weights):
    def theirs(torch, logits, truth, known):
        p = torch.sigmoid(logits)
        positive = torch.tensor(weights or (1.0,) * 3, dtype=torch.float64)
        losses = -positive * truth * (1 - p) ** gamma * p.log() - (1 - truth) * p**gamma * (1 - p).log()
        return losses[known].mean()

    check(MultiLabelLoss("focal", focal_gamma=gamma, weights=weights), case, theirs)


def test_dice_and_hinge_are_means_over_the_classes_that_occur(case):
    def dice(torch, logits, truth, known):
        p = torch.sigmoid(logits) * known
        scores = 2 * (p * truth).sum((0, 1, 2)) / (p.sum((0, 1, 2)) + truth.sum((0, 1, 2)))
        return (1 - scores)[[0, 2]].mean()

    def hinge(torch, logits, truth, known):
        """By the definition: the Jaccard losses of the growing sets of the worst pixels, weighted by gaps."""
        losses = []
        for k in (0, 2):
            own, here = truth[..., k][known[..., k]] > 0, logits[..., k][known[..., k]]
            errors = torch.relu(1 - torch.where(own, here, -here))
            order = errors.argsort(descending=True)
            levels = torch.cat([errors[order], torch.zeros(1, dtype=torch.float64)])
            loss = 0
            for i in range(len(order)):
                wrong = torch.zeros_like(own)
                wrong[order[: i + 1]] = True
                predicted = own ^ wrong
                loss = loss + (levels[i] - levels[i + 1]) * (
                    1 - (predicted & own).sum().double() / (predicted | own).sum()
                )
            losses.append(loss)
        return torch.stack(losses).mean()

    check(MultiLabelLoss("dice"), case, dice)
    check(MultiLabelLoss("lovasz"), case, hinge)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice", "lovasz"])
@pytest.mark.parametrize("options", [{}, {"weights": WEIGHTS, "label_smoothing": 0.1, "hardest": 0.5}])
def test_a_batch_of_void_and_a_sure_pixel_give_finite_gradients(name, options):
    loss = jax.jit(jax.value_and_grad(MultiLabelLoss(name, **options)))
    value, gradient = loss(jnp.ones((1, 4, 4, 3)), jnp.full((1, 4, 4, 3), 255, jnp.uint8))
    assert value == 0
    assert not gradient.any()
    for sign in (-1000.0, 1000.0):
        for truth in (0, 1):
            logits = jnp.full((1, 4, 4, 3), sign)
            value, gradient = loss(logits, jnp.full((1, 4, 4, 3), truth, jnp.uint8))
            assert jnp.isfinite(value)
            assert jnp.isfinite(gradient).all()


def test_on_a_mesh_a_loss_is_that_of_the_whole_batch():
    loss = MultiLabelLoss("cross_entropy+dice+lovasz+focal", weights=WEIGHTS, hardest=0.3)
    rng = np.random.default_rng(1)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (8, 8, 6, 3))
    logits = rng.standard_normal(label.shape).astype(np.float32)
    expected = jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(label))
    sharding = jax.sharding.NamedSharding(make_mesh(2, 4), jax.sharding.PartitionSpec("data", "space"))
    found = jax.jit(jax.value_and_grad(loss))(*(jax.device_put(x, sharding) for x in (logits, label)))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-7)


# Scores.


def average_precision(truth, scores):
    """As scikit-learn defines it: over the thresholds, from the highest, precision times the gain in recall."""
    found, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        chosen = scores >= threshold
        recall = (truth & chosen).sum() / truth.sum()
        found += (recall - before) * (truth & chosen).sum() / chosen.sum()
        before = recall
    return found


def test_scores_are_those_of_each_mask():
    rng = np.random.default_rng(0)
    total, maps, truths = MultiLabelCounts.empty(4), [], []
    for height in (30, 21):
        truth = rng.choice(np.uint8([0, 1, 255]), (height, 40, 4), p=[0.6, 0.3, 0.1])
        truth[..., 2] = 0  # predicted, but not there
        noise = rng.standard_normal(truth.shape) + (truth == 1)
        noise[..., 3] = -9  # there, but not predicted
        probability = jnp.asarray(expit(noise), jnp.float32)
        found = measured_of_each(jnp, None, probability, ("levels", "labels", "loss"), truth)
        maps.append({name: np.asarray(values) for name, values in found.items()} | {"p": np.asarray(probability)})
        truths.append(truth)
        total = total.merge(MultiLabelCounts.of_image(label=truth, levels=maps[-1]["levels"]))
    scores = total.compute()
    known = [np.concatenate([t[..., i][t[..., i] != 255] for t in truths]) == 1 for i in range(4)]
    p = [
        np.concatenate([m["p"][..., i][t[..., i] != 255] for m, t in zip(maps, truths, strict=True)]) for i in range(4)
    ]
    for i in range(4):
        chosen, true = p[i] > 0.5, known[i]
        both, either = (chosen & true).sum(), (chosen | true).sum()
        np.testing.assert_allclose(scores["iou"][i], both / either)
        np.testing.assert_allclose(scores["f1"][i], 2 * both / (chosen.sum() + true.sum()))
        np.testing.assert_allclose(scores["precision"][i], both / chosen.sum() if chosen.any() else np.nan)
        np.testing.assert_allclose(scores["recall"][i], both / true.sum() if true.any() else np.nan)
        expected = average_precision(true, np.ceil(p[i] * LEVELS)) if true.any() else np.nan
        np.testing.assert_allclose(scores["average_precision"][i], expected)
        if true.any():
            assert abs(expected - average_precision(true, p[i])) < 0.01
    assert scores["miou"] == np.mean(scores["iou"])
    assert scores["mean_recall"] == np.mean(scores["recall"][[0, 1, 3]])
    right = [((m["p"] > 0.5) == (t == 1)) | (t == 255) for m, t in zip(maps, truths, strict=True)]
    counted = [(t != 255).any(-1) for t in truths]
    share = sum((r.all(-1) & c).sum() for r, c in zip(right, counted, strict=True)) / sum(c.sum() for c in counted)
    np.testing.assert_allclose(scores["exact_match"], share)
    assert {key for key in scores if isinstance(scores[key], float)} == SCORES.keys()
    assert total.decisions() == sum(map(len, known))
    nll = -sum(np.log(np.where(true, one, 1 - one)).sum(dtype=float) for true, one in zip(known, p, strict=True))
    np.testing.assert_allclose(sum(m["loss"].sum(dtype=float) for m in maps), nll, rtol=1e-5)
    sure = np.concatenate([np.maximum(one, 1 - one) for one in p])
    hit = np.concatenate([(one > 0.5) == true for true, one in zip(known, p, strict=True)])
    bins = np.ceil(sure * 15)
    ece = sum(abs(sure[bins == b].mean() - hit[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    np.testing.assert_allclose(total.calibration().compute()["ece"], ece, atol=2e-3)
    for m, t in zip(maps, truths, strict=True):
        np.testing.assert_array_equal(m["labels"], m["p"] > 0.5)
        with pytest.raises(ValueError, match="of one size"):
            MultiLabelCounts.of_image(label=t[:-1], levels=m["levels"])


def test_the_loss_of_a_sure_mistake_is_the_same_either_way():
    probabilities, truth = np.float32([[[0, 1, 1e-20, 1]]]), np.uint8([[[1, 0, 1, 255]]])
    loss = measured_of_each(np, None, probabilities, ("loss",), truth)["loss"]
    np.testing.assert_allclose(loss, 3 * 24 * np.log(2), rtol=1e-6)


def test_nothing_counted_has_no_score():
    counts = MultiLabelCounts.of_image(label=np.full((9, 9, 2), 255, np.uint8), levels=np.ones((9, 9, 2), np.uint16))
    assert all(np.isnan(counts.compute()[key]) for key in SCORES)
    assert np.isnan(counts.miou())


def test_boundary_iou_is_that_of_each_mask():
    """Of a square that is one pixel too far to the right, in an image whose boundaries are one pixel wide."""
    truth, predicted = np.zeros((2, 20, 20, 1), np.uint8)
    truth[5:15, 3:13, 0], predicted[5:15, 4:14, 0] = 1, 1
    counts = MultiLabelCounts.of_image(label=truth, levels=np.where(predicted, LEVELS, 1).astype(np.uint16))
    rims = [mask.copy() for mask in (truth[..., 0], predicted[..., 0])]
    rims[0][6:14, 4:12], rims[1][6:14, 5:13] = 0, 0
    np.testing.assert_allclose(counts.compute()["boundary_iou"], (rims[0] & rims[1]).sum() / (rims[0] | rims[1]).sum())


def test_the_sums_of_a_temperature_are_the_nll_and_its_slopes():
    rng = np.random.default_rng(0)
    logits, label = rng.standard_normal((6, 7, 3)).astype(np.float32), rng.choice(np.uint8([0, 1, 255]), (6, 7, 3))
    model = types.SimpleNamespace(apply=lambda variables, images, train: jnp.asarray(logits)[None])
    sums = temperature._make_sums_of_each(model, Preprocessing((0, 0, 0), (1, 1, 1)))(
        {}, jnp.zeros((1, 6, 7, 3), jnp.uint8), label, jnp.array([[0, 0, 6, 7]])
    )
    found = np.asarray(sums, float).sum(-1)

    def nll(factor):
        margins = np.where(label == 1, -1, 1) * np.float64(logits)
        return np.logaddexp(0, factor * margins)[label != 255].sum()

    for i, factor in enumerate(temperature._FACTORS):
        step = 1e-3 * factor
        values = [nll(factor - step), nll(factor), nll(factor + step)]
        np.testing.assert_allclose(found[i, 0], values[1], rtol=1e-4)
        np.testing.assert_allclose(found[i, 1], (values[2] - values[0]) / (2 * step), rtol=1e-3, atol=1e-3)
        curvature = (values[0] - 2 * values[1] + values[2]) / step**2
        np.testing.assert_allclose(found[i, 2], curvature, rtol=1e-2, atol=1e-2)


# What is refused, and whole runs.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval.crf": "voc"}, r"config\.eval\.crf='voc' does not go with config\.data\.multi_label: the CRF"),
        ({"predict.outputs": "mask,entropy"}, r"predict\.outputs='mask,entropy' does not go .* take probabilities"),
        ({"predict.format": "voc"}, r"predict\.format='voc' does not go with"),
        ({"data.first_id": 1}, r"data\.first_id=1 does not go with"),
        ({"data.train": "shapes/train"}, r"config\.data\.multi_label=True: the pixels of shapes have one class each"),
    ],
)
def test_what_has_no_meaning_is_refused(overlapping, tmp_path, values, message):
    write_shapes(tmp_path / "mine")
    for key, value in values.items():
        group, name = key.split(".")
        overlapping[group][name] = value
    with pytest.raises(UserError, match=message):
        config_lib.validate(overlapping)


def test_the_best_may_be_by_scores_of_these_alone(overlapping, tmp_path):
    write_shapes(tmp_path / "mine")
    config_lib.validate(overlapping)
    spec = settings.spec_from(overlapping)
    for name in ("miou", "loss", "mean_f1", "f1_per_class.disk", "average_precision_per_class.stripe"):
        check_score(name, spec)
    for name in ("pixel_accuracy", "trimap_miou.3", "accuracy_per_class.disk"):
        with pytest.raises(UserError, match=r"no score; known: miou, mean_f1, .*, CLASS is one of disk|where CLASS"):
            check_score(name, spec)


@pytest.mark.parametrize("name", ["folder", "coco"])
def test_configs_have_the_stage(name):
    module = importlib.import_module(f"configs.{name}")
    assert module.get_config("multi_label").data.multi_label
    assert not module.get_config().data.multi_label
    with pytest.raises(UserError, match=rf"configs/{name}\.py:x: unknown stage; known: .*multi_label"):
        module.get_config("x")


@pytest.mark.slow
def test_windows_average_the_probabilities_of_each_class(overlapping, tmp_path):
    write_shapes(tmp_path / "mine")
    config_lib.validate(overlapping)
    overlapping.eval.update(window=32, stride=20)
    variables = randomize(init_variables(settings.model_from(overlapping), 0))
    segmenter = make_segmenter(overlapping, variables)
    image = np.random.default_rng(0).integers(0, 256, (32, 72, 3), np.uint8)
    one = dataclasses.replace(segmenter, protocol=dataclasses.replace(segmenter.protocol, window=0, stride=0, size=32))
    tent = np.minimum(np.arange(32) + 0.5, 31.5 - np.arange(32))
    total, weights = np.zeros((32, 72, 3)), np.zeros((1, 72, 1))
    for left in (0, 20, 40):
        total[:, left : left + 32] += one.probabilities(image[:, left : left + 32]) * tent[:, None]
        weights[:, left : left + 32] += tent[:, None]
    found = segmenter.probabilities(image)
    np.testing.assert_allclose(found, total / weights, atol=1e-5)
    assert found.sum(-1).std() > 1e-3  # these are no shares of one
    np.testing.assert_array_equal(segmenter.predict(image), found > 0.5)
    views = dataclasses.replace(one, protocol=dataclasses.replace(one.protocol, flip=True))
    part = image[:, :32]
    both = (one.probabilities(part) + one.probabilities(part[:, ::-1])[:, ::-1]) / 2
    np.testing.assert_allclose(views.probabilities(part), both, atol=1e-5)


@pytest.mark.slow
def test_a_model_is_trained_evaluated_applied_and_handed_on(tmp_path, cache):
    data, workdir, out = write_shapes(tmp_path / "mine", range(40)), tmp_path / "run", tmp_path / "out"
    common = (f"--workdir={workdir}", f"--config.cache_dir={cache}", f"--config.data_dir={data}")
    small = ("--config.model.backbone=resnet14", "--config.model.width=8", "--config.model.kernel_size=7")
    steps = ("--config.data.size=64", "--config.num_steps=120", "--config.eval_every=60", "--config.batch_size=8")
    others = ("--config.loss.name=cross_entropy+dice", "--config.data.rare_share=0.2", "--config.data.scale=1,1")
    best = ("--config.eval.best_by=f1_per_class.disk", "--config.optimizer.clip_norm=10")
    stage = "--config=configs/folder.py:multi_label"
    run(stage, *common, "--mode=prepare", *small, *steps)
    with Image.open(workdir / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 1000
    run(stage, *common, *small, *steps, *others, *best)
    run(stage, *common, "--mode=calibrate")
    run("--config=configs/folder.py", *common, "--mode=eval")
    result = json.loads((workdir / "eval.json").read_text())
    assert result["miou"] > 0.6
    assert result["miou"] == pytest.approx(np.mean(list(result["iou_per_class"].values())))
    assert "confusion_matrix" not in result
    assert "Mean F1 (Dice)" in (workdir / "report.html").read_text()
    outputs = "--config.predict.outputs=mask,overlay,probabilities,polygons"
    run("--config=configs/folder.py", *common, "--mode=predict", f"--input={data}/images", f"--output={out}", outputs)
    model = tmp_path / "model.safetensors"
    run("--config=configs/folder.py", *common, "--mode=export", f"--output={model}")
    right = []
    for source in (workdir, model):
        segmenter = gcn_jax.load(source)
        assert segmenter.spec.multi_label
        for number in (0, 1):
            image, truth = draw(number)
            found = segmenter.predict(image)
            assert (found.dtype, found.shape) == (bool, truth.shape)
            right.append((found == truth).mean())
            for i, name in enumerate(CLASSES):
                with Image.open(out / f"{number}_{name}.png") as mask:
                    np.testing.assert_array_equal(np.array(mask), 255 * found[..., i])
            with np.load(out / f"{number}_probabilities.npz") as file:
                np.testing.assert_allclose(file["probabilities"], segmenter.probabilities(image), atol=1e-3)
    assert min(right) > 0.9
    with pytest.raises(UserError, match=r"config\.eval\.crf='voc' does not go with"):
        gcn_jax.load(model, crf="voc")
    rasterio = pytest.importorskip("rasterio", reason="a raster's masks are TIFFs")
    image, place = draw(2)[0], rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, transform=place) as file:
        file.write(np.moveaxis(image, -1, 0))
    run("--config=configs/folder.py", *common, "--mode=predict", f"--input={tmp_path}/scene.tif", f"--output={out}")
    for i, name in enumerate(CLASSES):
        with rasterio.open(out / f"scene_{name}.tif") as file:
            assert file.transform == place
            np.testing.assert_array_equal(file.read(1), 255 * gcn_jax.load(workdir).predict(image)[..., i])
    # The polygons, read back as data, are the masks.
    for number in range(40):
        save(out / f"{number}.png", draw(number)[0])
    config = config_lib.default()
    config.update(data_dir=str(out), cache_dir=str(tmp_path / "cache"), num_steps=10)
    config.data.update(train="coco/train", eval="coco/val", multi_label=True)
    np.testing.assert_array_equal(opened(config)["1"]["label"], gcn_jax.load(workdir).predict(draw(1)[0]))
    assert "config.data.multi_label" in refused(stage, *common, "--config.data.multi_label=False", "--mode=eval")
    assert "the CRF gives each pixel one class" in refused(stage, *common, "--mode=crf_search")
