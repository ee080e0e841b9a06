"""Weights of a model of other classes: what carries over, class by class."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from gcn_jax.checkpoints import model_file
from gcn_jax.checkpoints.carry_over import carry_over
from gcn_jax.errors import UserError
from gcn_jax.models import build_model, init_variables
from gcn_jax.modes.start_weights import check_start, start_weights
from tests import command_line
from tests.helpers import assert_equal, randomize, relative

OLD = ["background", "cat", "dog", "cow"]
IMAGES = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)


def first_is_fast(*some):
    """Parameters of a test, of which all but the first are in the slow set."""
    return [some[0], *(pytest.param(options, marks=pytest.mark.slow) for options in some[1:])]


STACK = {"head": "stack3x3", "kernel_size": 5, "head_width": 6}
HEADS = first_is_fast({"branches": "concat"}, {}, {"head": "conv1x1", "boundary_refine": False}, STACK)


def model_of(classes, **options):
    return build_model(len(classes), **{"backbone": "resnet14", "width": 4, "kernel_size": 3, **options})


def trained(**options):
    """A model of the old classes, and variables in which every tensor matters."""
    model = model_of(OLD, **options)
    return model, randomize(init_variables(model, 0), 1)


def carried(classes, before, old=OLD, **options):
    """A model of these classes, its fresh variables, those after carrying over, and the lines that tell of it."""
    model = model_of(classes, **options)
    fresh = init_variables(model, 2)
    return model, fresh, *carry_over(fresh, before, model, classes, old)


def logits(model, variables):
    return np.asarray(jax.jit(model.apply)(variables, IMAGES))


@pytest.mark.parametrize("options", HEADS, ids=str)
def test_further_classes_leave_the_scores_of_the_others(options):
    before, variables = trained(**options)
    after, _, larger, lines = carried(["rat", "dog", "background", "cow", "owl", "cat"], variables, **options)
    found = logits(after, larger)
    assert relative(found[..., [2, 5, 1, 3]], logits(before, variables)) < 1e-5, "up to the order of sums"
    assert np.ptp(found[..., [0, 4]]) > 0
    assert lines == ["classes that carry over: dog, background, cow, cat", "classes that start fresh: rat, owl"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"head": "conv1x1", "boundary_refine": False}, {}], ids=str)
def test_classes_in_another_order_have_the_same_scores(options):
    before, variables = trained(**options)
    for name in ("up_res4", "up_res3", "up_res2", "up_half", "up_full"):  # then no class takes part in another's sum
        variables["params"][name] = init_variables(before, 0)["params"][name]
    order = [2, 0, 3, 1]
    after, _, permuted, lines = carried([OLD[i] for i in order], variables, **options)
    assert relative(logits(after, permuted), logits(before, variables)[..., order]) <= (1e-5 if not options else 0)
    assert lines == ["classes that carry over: dog, background, cow, cat"]


@pytest.mark.parametrize("options", first_is_fast(STACK, {}, {"branches": "concat"}), ids=str)
def test_there_and_back_nothing_is_lost(options):
    _, variables = trained(**options)
    classes = ["rat", *OLD[::-1]]
    _, _, larger, _ = carried(classes, variables, **options)
    _, _, same, lines = carried(OLD, larger, old=classes, **options)
    assert_equal(same, variables)
    assert lines[1:] == ["classes that are left behind: rat"]
    assert carried(OLD, variables, **options)[-1] == []


def test_what_leads_to_new_classes_is_fresh_and_what_leads_from_them_is_zero():
    _, variables = trained()
    _, fresh, found, lines = carried(["background", "owl", "dog"], variables)
    for name, axes in {"left_column": 1, "left_row": 2}.items():
        kernel, start, before = (tree["params"]["gcn_res4"][name]["kernel"] for tree in (found, fresh, variables))
        np.testing.assert_array_equal(kernel[..., 1], start[..., 1])
        if axes == 1:
            np.testing.assert_array_equal(kernel[..., [0, 2]], before[..., [0, 2]])
        else:
            np.testing.assert_array_equal(kernel[:, :, 1, [0, 2]], 0)
            np.testing.assert_array_equal(kernel[0, 0, 0, [0, 2]], before[0, 0, 0, [0, 2]])
    assert_equal(found["params"]["backbone"], variables["params"]["backbone"])
    assert_equal(found["batch_stats"], variables["batch_stats"])
    assert lines[2] == "classes that are left behind: cat, cow"


@pytest.mark.parametrize(
    "options",
    first_is_fast({"branches": "concat"}, {"kernel_size": 5}, {"head": "conv1x1"}, {**STACK, "head_width": 4}),
    ids=str,
)
def test_another_decoder_keeps_the_backbone_alone(options):
    _, variables = trained(**(STACK if "head_width" in options else {}))
    _, fresh, found, (line,) = carried(OLD, variables, **options)
    assert line.startswith("the backbone alone carries over: the rest has another config.model.head, kernel_size,")
    assert_equal(found["params"].pop("backbone"), variables["params"]["backbone"])
    fresh["params"].pop("backbone")
    assert_equal(found["params"], fresh["params"])
    assert_equal(found["batch_stats"], variables["batch_stats"])


def test_boundary_refinement_may_be_added_or_taken_away():
    _, variables = trained()
    _, _, plain, lines = carried(OLD, variables, boundary_refine=False)
    assert lines == ["boundary refinement is left behind"]
    kept = {name: value for name, value in variables["params"].items() if not name.startswith("refine_")}
    assert_equal(plain["params"], kept)
    _, fresh, refined, lines = carried(OLD, plain)
    assert lines == ["boundary refinement starts fresh"]
    assert_equal(refined["params"], {**fresh["params"], **kept})


def test_an_exported_model_of_other_classes_starts_a_run(config, tmp_path, capfd):
    path = tmp_path / "model.safetensors"
    config.data.update(train="folder/train", eval="folder/val", classes=OLD)
    _, variables = trained()
    model_file.save(path, variables, config, step=7)
    config.data.classes, config.init_from = ["background", "owl", "dog"], str(path)
    check_start(config, tmp_path / "run", is_resumed=False)
    _, fresh, expected, lines = carried(config.data.classes, variables)
    assert_equal(start_weights(config, fresh), expected)
    assert capfd.readouterr().err.splitlines() == [f"starting from step 7 of {path}", *lines]
    for group, key, value in (("model", "strides_in", "v1"), ("data", "channels", "BGR")):
        before, config[group][key] = config[group][key], value
        with pytest.raises(UserError, match=rf"{path}: its model has config.{group}.{key} '{before}', not '{value}'; "):
            check_start(config, tmp_path / "run", is_resumed=False)
        config[group][key] = before


@pytest.mark.slow
def test_a_run_on_shapes_goes_on_with_other_classes(cache, tmp_path):
    common = (f"--config.cache_dir={cache}", "--config.num_steps=2", "--config.batch_size=2", "--config.eval_every=2")
    model = ("--config.model.width=4", "--config.model.kernel_size=3", "--config.model.backbone=resnet14")
    first, second, data = (tmp_path / name for name in ("first", "second", "data"))
    command_line.run("--config=configs/shapes.py", f"--workdir={first}", *common, *model)
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for i in range(5):
        mask = np.zeros((64, 64), np.uint8)
        mask[8:40, 8 * i : 8 * i + 20] = 1 + i % 2
        Image.fromarray(mask).save(data / "masks" / f"{i}.png")
        Image.fromarray(np.repeat(60 * mask[..., None], 3, axis=-1)).save(data / "images" / f"{i}.png")
    (data / "classes.txt").write_text("background\nhat\nring\n")
    folder = ("--config=configs/folder.py", f"--config.data_dir={data}", "--config.data.size=64", *common, *model)
    same = json.loads((first / "config.json").read_text())["data"]
    same = [f"--config.data.{key}={','.join(map(str, same[key]))}" for key in ("mean", "std")]
    _, err = command_line.run(*folder, *same, f"--workdir={second}", f"--config.init_from={first}")
    lines = err.splitlines()
    assert f"starting from step 2 of {first}" in lines
    assert "classes that carry over: background, ring" in lines
    assert "classes that start fresh: hat" in lines
    assert "classes that are left behind: disk, square, triangle, cross" in lines
    assert "resuming from step 2" in command_line.run(*folder, *same, f"--workdir={second}")[1]
    err = command_line.run(*folder, f"--workdir={first}", status=2)[1]
    assert "its checkpoints have the classes 'background, disk" in err
