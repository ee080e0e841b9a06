"""A trained model as one file: the same model on the other side, and files that lie."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from safetensors import safe_open

import gcn_jax
from gcn_jax.checkpoints import manager as checkpoints
from gcn_jax.checkpoints import model_file as export
from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.best import Best
from gcn_jax.data.specs import SHAPES
from gcn_jax.errors import UserError
from gcn_jax.models import build_model, init_variables
from gcn_jax.modes import evaluate, train
from gcn_jax.modes.export import run as run_export
from tests import command_line
from tests.helpers import assert_equal, make_twin, new_state, randomize

torch = pytest.importorskip("torch")


@pytest.fixture
def config(config):
    config.data.update(channels="BGR", std=(1.0, 2.0, 3.0))
    config.mesh.data, config.eval.num_pictures, config.eval.batch_size = 1, 0, 40
    return config


@pytest.fixture(scope="module")
def variables():
    return randomize(init_variables(build_model(SHAPES.num_classes, "resnet14", 3, width=4), 0))


@pytest.fixture
def exported(tmp_path, config, variables):
    """A model's file, and what is in it."""
    path = tmp_path / "model.safetensors"
    export.save(path, variables, config, 7, 0.25)
    with safe_open(path, "numpy") as file:
        return path, safetensors.numpy.load_file(path), file.metadata()


def test_import_export_import_is_exact(tmp_path, config, variables):
    """PyTorch's tensors -> a backbone -> one file -> a model that predicts -> another file of the same bytes."""
    arrays = {name: tensor.numpy() for name, tensor in make_twin().state_dict().items()}
    safetensors.numpy.save_file(arrays, tmp_path / "backbone.safetensors")
    variables = gcn_jax.load_backbone(variables, tmp_path / "backbone.safetensors")
    export.save(tmp_path / "one.safetensors", variables, config, 3)
    segmenter = gcn_jax.load(tmp_path / "one.safetensors")
    assert_equal(segmenter.variables, variables)
    export.save(tmp_path / "two.safetensors", segmenter.variables, saved_config.load(tmp_path / "one.safetensors"), 3)
    one, two = (safetensors.numpy.load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], strict=True)
    kernel = one["params/backbone/res4_block1/conv2/kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, arrays["layer3.0.conv2.weight"], strict=True)


def test_what_a_file_tells(exported, config):
    cluster = config.copy_and_resolve_references()
    cluster.distributed.coordinator = "node7.cluster:1234"
    _, arrays, metadata = exported
    assert metadata.keys() == {"format", "config", "classes", "preprocessing", "step", "miou"}
    assert (metadata["format"], metadata["step"], float(metadata["miou"])) == ("gcn_jax 1", "7", 0.25)
    classes = json.loads(metadata["classes"])
    assert [(c["name"], tuple(c["color"])) for c in classes["classes"]] == [(c.name, c.color) for c in SHAPES.classes]
    assert json.loads(metadata["preprocessing"]) == {
        "channels": "BGR",
        "mean": [123.675, 116.28, 103.53],
        "std": [1.0, 2.0, 3.0],
    }
    saved = json.loads(metadata["config"])
    assert saved["model"] == json.loads(config.model.to_json())
    assert str(config.cache_dir) not in metadata["config"], "nobody else need know the exporter's folders"
    assert export.for_others(cluster)["distributed"]["coordinator"] == "", "nor the names of its hosts"
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_a_run_is_handed_on(tmp_path, config, variables, capfd):
    """A workdir with averaged parameters, exported; then loaded, evaluated and trained from."""
    config.optimizer.ema_decay = 0.5
    workdir, path = tmp_path / "run", tmp_path / "new" / "model.safetensors"
    workdir.mkdir()
    saved_config.save(config, workdir)
    state = new_state(config, 1)
    with checkpoints.Checkpoints(workdir, 2) as saved:
        saved.save(state.replace(step=jnp.int32(5), ema_params=variables["params"]), {})
        saved.mark(Best(5, 0.25, "", "miou", 0.25))
    arguments = ["--config=configs/shapes.py", f"--config.cache_dir={config.cache_dir}", f"--workdir={workdir}"]
    _, err = command_line.run(*arguments, "--mode=export", f"--output={path}")
    assert err.startswith(f"written: {path}, step 5 of {workdir}, 0.")
    with safe_open(path, "numpy") as file:
        assert (file.metadata()["step"], file.metadata()["miou"]) == ("5", "0.25")
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it as any file"

    here, there = gcn_jax.load(path), gcn_jax.load(workdir)
    assert_equal(here.variables["params"], variables["params"])
    assert_equal(here.variables, jax.tree.map(np.asarray, there.variables))
    assert here.spec == there.spec == SHAPES
    for name in ("model", "spec", "preprocessing"):
        assert getattr(here, name) == getattr(there, name)

    (result,) = evaluate.run({path: saved_config.of_trained(config, path, ())}).values()
    assert json.loads((path.parent / "model.eval.json").read_text())["confusion_matrix"] == result["confusion_matrix"]
    assert (result["step"], result["num_images"]) == (5, 200)
    assert "<html" in (path.parent / "model.report.html").read_text()

    config.init_from = str(path)
    train.check_start(config, tmp_path / "next", is_resumed=False)
    assert_equal(train.start_weights(config, variables), here.variables)
    assert f"starting from step 5 of {path}" in capfd.readouterr().err
    config.data.channels = "RGB"
    with pytest.raises(UserError, match=r"model.safetensors: its model has config.data.channels 'BGR', not 'RGB'"):
        train.check_start(config, tmp_path / "next", is_resumed=False)


def test_wrong_outputs_are_named(tmp_path, config, exported):
    path, *_ = exported
    before = path.read_bytes()
    for workdir, output, message in (
        (tmp_path, path, "--output=.*model.safetensors: exists already; choose another name, or delete it"),
        (tmp_path, tmp_path / "model.bin", "--output=.*model.bin: must end in .safetensors"),
        (path, tmp_path / "other.safetensors", "--workdir=.*model.safetensors: is one file already"),
        (tmp_path / "none", tmp_path / "other.safetensors", "none: not a workdir of a training run"),
    ):
        with pytest.raises(UserError, match=message):
            run_export(config, workdir, output)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"--output=.*: cannot be written"):
        export.save(blocked / "model.safetensors", {"params": {"a": np.zeros(1)}}, config, 0)
    assert not list(tmp_path.glob("*.part"))
    assert path.read_bytes() == before


def _changed(text, **values):
    """JSON with values changed, by paths such as model__width."""
    tree = traverse_util.flatten_dict(json.loads(text), sep="__")
    return json.dumps(traverse_util.unflatten_dict({**tree, **values}, sep="__"))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("format", lambda _: None, "not a model that --mode=export wrote .its format is 'none'"),
        ("format", lambda _: "gcn_jax 2", "its format is 'gcn_jax 2', not 'gcn_jax 1'"),
        ("config", lambda _: None, "damaged"),
        ("config", lambda _: "[" * 100_000, "damaged"),
        ("config", lambda _: "[]", "damaged"),
        ("config", lambda text: _changed(text, model=5), "damaged"),
        ("config", lambda text: _changed(text, model__width="4"), "damaged .*width"),
        ("config", lambda text: _changed(text, model__widths=4), "damaged .unknown key 'widths', of another version"),
        ("config", lambda text: _changed(text, model__width=-4), "config.model.width must be positive. Got -4"),
        ("config", lambda text: _changed(text, model__width=10**12), "config.model.width is 1000000000000, beyond"),
        ("config", lambda text: _changed(text, model__kernel_size=10**9 + 1), "kernel_size is 1000000001, beyond"),
        ("config", lambda text: _changed(text, model__kernel_size=5), r"conv1|left_\w+/kernel is \(3, 1, .*\); its"),
        ("config", lambda text: _changed(text, model__boundary_refine=False), "holds an unknown array, 'params/refine"),
        ("config", lambda text: _changed(text, model__backbone="resnet26"), "lacks 'batch_stats/backbone/res2_block2"),
        ("config", lambda text: _changed(text, data__mean=["a", 1, 2]), "config.data.mean must be three numbers"),
        ("config", lambda text: _changed(text, data__std=[float("nan"), 1, 1]), "NaN is no number"),
        ("config", lambda text: text.replace("[1.0, 2.0, 3.0]", "[1e999, 2.0, 3.0]"), "config.data.std must be three"),
        ("config", lambda text: _changed(text, data__channels="RGB"), "its preprocessing are not those of its config"),
        ("config", lambda text: _changed(text, data__train="folder/train", data__eval="folder/val"), "0 classes"),
        (
            "config",
            lambda text: _changed(text, data__train="folder/train", data__eval="folder/val", data__classes=[1, 2]),
            "damaged",
        ),
        ("config", lambda text: _changed(text, data__train="../../etc"), "is unknown data"),
        ("classes", lambda text: text.replace("disk", "disc"), "its classes are not those of its config"),
        ("classes", lambda _: "{", "its classes are missing or not JSON"),
        ("preprocessing", lambda _: None, "its preprocessing are missing"),
        ("step", lambda _: "-1", "its step is no number"),
        ("step", lambda _: "9" * 5000, "its step is no number"),
    ],
)
def test_metadata_are_not_trusted(exported, key, change, message):
    path, arrays, metadata = exported
    metadata[key] = change(metadata[key])
    safetensors.numpy.save_file(arrays, path, {name: text for name, text in metadata.items() if text is not None})
    with pytest.raises(UserError, match=message) as error:
        gcn_jax.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_wrong_arrays_are_named(exported):
    path, arrays, metadata = exported
    name = "params/backbone/conv1/kernel"
    for changed, message in (
        ({name: arrays[name][..., :3]}, r"conv1/kernel is \(7, 7, 3, 3\); its config's model has \(7, 7, 3, 4\)"),
        ({name: np.full_like(arrays[name], np.nan)}, "conv1/kernel holds NaN or infinite values"),
        ({"params/backbone/conv9/kernel": arrays[name]}, "holds an unknown array, 'params/backbone/conv9/kernel'"),
        ({"\x1b[31m": arrays[name]}, r"holds an unknown array, '\\x1b\[31m'"),
    ):
        safetensors.numpy.save_file(arrays | changed, path, metadata)
        with pytest.raises(UserError, match=message):
            gcn_jax.load(path)
    safetensors.numpy.save_file({n: a for n, a in arrays.items() if n != name}, path, metadata)
    with pytest.raises(UserError, match=f"lacks '{name}'"):
        gcn_jax.load(path)
    safetensors.numpy.save_file(arrays, path, metadata)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=re.escape(f"{path}: damaged or cut short")):
        gcn_jax.load(path)
    safetensors.numpy.save_file({"conv1.weight": np.zeros(3)}, path)
    with pytest.raises(UserError, match=r"not a model that --mode=export wrote .* goes to --config.init_from"):
        gcn_jax.load(pathlib.Path(path))
