"""Weights by name, of the Hugging Face Hub and of torchvision; models written to the Hub: a server in this process."""

import importlib.util
import json
import re
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import gcn_jax
from gcn_jax.checkpoints import manager as checkpoints
from gcn_jax.checkpoints import model_file, named_weights, saved_config
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.models import init_variables
from gcn_jax.modes import export, start_weights
from tests import command_line, hub_server
from tests.helpers import new_state

needs_hub = pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="needs the extra hub")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub, which `huggingface_hub` takes for the real one, with an empty cache and no token."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra hub")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    named_weights._of_hub.cache_clear()
    with hub_server.serving(hub_server.Hub()) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        yield served
    named_weights._of_hub.cache_clear()


@pytest.fixture
def trained(config, tmp_path):
    """A workdir with a checkpoint, a picture and scores of it."""
    workdir = tmp_path / "run"
    (workdir / "pictures").mkdir(parents=True)
    config.data.train = "voc_segmentation/train"
    config.data.eval = "voc_segmentation/val"
    config.data_dir = "/home/somebody/data"
    saved_config.save(config, workdir)
    with checkpoints.Checkpoints(workdir, 1) as saver:
        saver.save(new_state(config, 0), {"batches": 0})
    Image.new("RGB", (8, 8)).save(workdir / "pictures/step_00000000.png")
    result = {"step": 0, "data": config.data.eval, "num_images": 3, "protocol": {"flip": False, "scales": [1.0]}}
    result |= {"miou": 0.25, "pixel_accuracy": 0.5, "iou_per_class": {"aeroplane": 0.125, "cat": None}}
    (workdir / "eval.json").write_text(json.dumps(result))
    return workdir


def fetched(name):
    """What a name's file holds; as in a new process."""
    named_weights._of_hub.cache_clear()
    return named_weights.local_file("x", name).read_bytes()


def test_files_of_the_hub_are_fetched_once_by_revision_and_offline(hub):
    hub.files["user/m", "main", "model.safetensors"] = b"main"
    hub.files["user/m", "v1", "model.safetensors"] = b"first"
    hub.files["user/m", "main", "other/b.safetensors"] = b"other"
    names = ("hf://user/m", "hf://user/m@v1", "hf://user/m/other/b.safetensors")
    assert [fetched(name) for name in names] == [b"main", b"first", b"other"]
    assert sorted(request for request in hub.asked if request.startswith("GET /user")) == [
        "GET /user/m/resolve/main/model.safetensors",
        "GET /user/m/resolve/main/other/b.safetensors",
        "GET /user/m/resolve/v1/model.safetensors",
    ]
    hub.asked.clear()
    assert [fetched(name) for name in names] == [b"main", b"first", b"other"]
    assert not [request for request in hub.asked if request.startswith("GET /user")], "they are kept"
    hub.down = True
    assert [fetched(name) for name in names] == [b"main", b"first", b"other"]
    hub.asked.clear()
    with pytest.raises(UserError, match="is not on this machine, and the Hub cannot be reached: check the network"):
        fetched("hf://user/m@v2")
    assert hub.asked == ["HEAD /user/m/resolve/v2/model.safetensors"], "it is not asked again and again"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://user/none", "there is no such repository, or it is private: check the name, or log in"),
        ("hf://user/gated", "is gated: accept its terms on its page, then log in"),
        ("hf://user/m@v9", "has no such revision"),
        ("hf://user/m/lost.safetensors", "holds no lost.safetensors"),
        ("hf://user/m/model.bin", "must be hf://USER/MODEL, .*other kinds of file are not fetched"),
        ("hf://user/m/../m.safetensors", "the Hub|holds no|must be"),
        ("hf://m", "must be hf://USER/MODEL"),
        ("hf://user/m@", "must be hf://USER/MODEL"),
        ("hf://", "must be hf://USER/MODEL"),
    ],
)
def test_what_the_hub_does_not_give_is_told(hub, name, message):
    hub.files["user/m", "main", "model.safetensors"] = b"main"
    hub.gated.add("user/gated")
    with pytest.raises(UserError, match=f"^config.init_from={re.escape(name)}: .*({message})") as told:
        named_weights.local_file("config.init_from", name)
    assert "\n" not in str(told.value)
    assert not [request for request in hub.asked if request.startswith("GET /user")]


@pytest.mark.slow
def test_a_model_of_the_hub_is_loaded_and_started_from(hub, config, trained, tmp_path):
    model_file.save(tmp_path / "m.safetensors", _variables(config), config, 5)
    hub.files["user/m", "v1", "model.safetensors"] = (tmp_path / "m.safetensors").read_bytes()
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = gcn_jax.load(tmp_path / "m.safetensors").probabilities(image)
    np.testing.assert_array_equal(gcn_jax.load("hf://user/m@v1").probabilities(image), expected)
    config.init_from = "hf://user/m@v1"
    saved_config.save(config, trained)
    assert saved_config.load(trained).init_from == "hf://user/m@v1", "a run keeps the address"
    start_weights.check_start(config, tmp_path / "other", is_resumed=False)
    found = start_weights.start_weights(config, init_variables(settings.model_from(config), 7))
    jax.tree.map(np.testing.assert_array_equal, found, _variables(config))


def _variables(config):
    return init_variables(settings.model_from(config), 3)


@pytest.mark.slow
def test_a_backbone_of_the_hub_is_loaded(hub, torchvision_models):
    """In torchvision's names, which are timm's, too."""
    weights = {name: value.numpy() for name, value in torchvision_models.resnet18().state_dict().items()}
    hub.files["timm/resnet18", "main", "model.safetensors"] = safetensors.numpy.save(weights)
    model = gcn_jax.build_model(num_classes=3, backbone="resnet18", kernel_size=3)
    variables = gcn_jax.load_backbone(init_variables(model, 0), "hf://timm/resnet18")
    kernel = variables["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, weights["conv1.weight"].transpose(2, 3, 1, 0))


def test_torchvisions_weights_are_fetched_once(torchvision_models, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    weights, asked = torchvision_models.resnet18().state_dict(), []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(address, path, digest):
        asked.append((address.rpartition("/")[2], digest))
        if len(asked) == 1:
            raise OSError("no network")
        torch.save(weights, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    variables = init_variables(gcn_jax.build_model(num_classes=3, backbone="resnet18", kernel_size=3), 0)
    with pytest.raises(
        UserError, match=r"path=torchvision:resnet18: is not in .*, and cannot be downloaded \(no network"
    ):
        gcn_jax.load_backbone(variables, "torchvision:resnet18")
    for _ in range(2):
        named_weights._of_torchvision.cache_clear()
        found = gcn_jax.load_backbone(variables, "torchvision:resnet18@IMAGENET1K_V1")
    expected = weights["conv1.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found["params"]["backbone"]["conv1"]["kernel"], expected)
    assert asked == [("resnet18-f37072fd.pth", "f37072fd")] * 2
    for name, message in (
        ("vgg16", "no ResNet of torchvision; known: .*resnet152"),
        ("resnet18@V9", "known: IMAGENET1K_V1"),
    ):
        with pytest.raises(UserError, match=message):
            gcn_jax.load_backbone(variables, f"torchvision:{name}")


@pytest.mark.parametrize(
    ("library", "name", "message"),
    [
        ("huggingface_hub", "hf://user/m", r"\.\[hub\]"),
        ("torchvision", "torchvision:resnet18", "pip install torchvision"),
    ],
)
def test_a_missing_library_is_named(library, name, message, monkeypatch):
    for fetch in (named_weights._of_hub, named_weights._of_torchvision):
        fetch.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == library else find(asked))
    with pytest.raises(UserError, match=message):
        named_weights.local_file("config.init_from", name)
    assert library == "torchvision" or _export_refused(name, message)


def _export_refused(name, message):
    with pytest.raises(UserError, match=message):
        export.run(None, None, name)
    return True


def test_a_model_is_written_with_a_card(hub, config, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    exported = saved_config.load(trained)
    exported.export.licence = "cc-by-4.0"
    export.run(exported, trained, "hf://user/new")
    files = {name: data for (repository, _, name), data in hub.files.items() if repository == "user/new"}
    assert files.keys() == {"model.safetensors", "README.md", "config.json", "picture.png"}
    assert files["picture.png"] == (trained / "pictures/step_00000000.png").read_bytes()
    assert hub.private == {"user/new"}, "it is for its owner to show"
    card = files["README.md"].decode()
    _, metadata, page = card.split("---\n", 2)
    values = {key: json.loads(value) for key, value in (line.split(": ", 1) for line in metadata.splitlines())}
    assert (values["license"], values["library_name"]) == ("cc-by-4.0", "gcn_jax")
    (measured,) = values["model-index"][0]["results"]
    assert measured["metrics"] == [{"type": "mean_iou", "value": 0.25}]
    for line in (
        "![Image, truth and prediction](picture.png)",
        "gcn_jax predict hf://user/new photo.jpg",
        "| 1 | aeroplane | #800000 |",
        "| mean IoU | 25.00 |",
        "| aeroplane | 12.50 |",
        "| cat | - |",
        "The weights: cc-by-4.0.",
        "On the 3 images of `voc_segmentation/val`, by scales [1.0]:",
    ):
        assert line in page.splitlines(), line
    assert "| voc\\_segmentation | " in page, "what the publishers of the training data say"
    assert b"/home/somebody" not in b"".join(files.values())
    assert json.loads(files["config.json"])["model"]["width"] == config.model.width
    said = capsys.readouterr().err
    assert f"{hub.url}/user/new/commit/" in said
    assert "images of voc_segmentation/val; without: --config.export.picture=False" in said
    ours, theirs = (gcn_jax.load(source).variables for source in (trained, "hf://user/new"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_card_tells_what_is_not_there(hub, trained, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    shutil.rmtree(trained / "pictures")
    (trained / "eval.json").write_text(json.dumps({"step": 7}))
    export.run(saved_config.load(trained), trained, "hf://user/bare")
    card = hub.files["user/bare", "main", "README.md"].decode()
    assert "**Not stated.**" in card
    assert "Not evaluated." in card
    assert not re.search("license:|picture|model-index", card)
    said = capsys.readouterr().err
    assert "the card states no licence of the weights: --config.export.licence=NAME" in said
    assert "eval.json is of step 7, not 0" in said


def test_what_cannot_be_written_is_told(hub, trained, monkeypatch):
    hub.files["user/held", "main", "README.md"] = b"mine"
    for token, name, message in (
        ("", "hf://user/new", "needs a token: log in"),
        ("hf_wrong", "hf://user/new", r"the Hub refuses \(401\): the token is wrong, or lacks the right"),
        ("hf_read", "hf://user/new", r"the Hub refuses \(403\): the token is wrong, or lacks the right"),
        ("hf_write", "hf://user/held", "holds README.md already; choose another name, or delete it there"),
        ("hf_write", "hf://user/new@v1", "name hf://USER/MODEL alone"),
        ("hf_write", "hf://user", "must be hf://USER/MODEL"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match=f"^--output={name}: .*{message}"):
            export.run(saved_config.load(trained), trained, name)
    assert list(hub.files) == [("user/held", "main", "README.md")]
    assert not hub.private


def test_addresses_are_refused_where_they_mean_nothing(tmp_path):
    """What a mode would write beside its model would go into the library's cache."""
    for mode in ("eval", "calibrate", "crf_search", "receptive_field"):
        err = command_line.refused("--config=configs/shapes.py", f"--mode={mode}", "--workdir=hf://user/m")
        assert err.startswith("run.py: error: --workdir=hf://user/m: of the Hub a model is taken by predict and export")
    for flag in ("--config.data_dir", "--config.cache_dir", "--workdir"):
        err = command_line.refused("--config=configs/shapes.py", f"{flag}=hf://user/m", "--config.data.size=64")
        assert f"{flag.removeprefix('--config.') if 'config' in flag else flag}=hf://user/m: of the Hub" in err


@needs_hub
@pytest.mark.slow
def test_the_commands_speak_to_the_hub(config, cache, trained, tmp_path):
    """With the library's own settings of its environment."""
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    with hub_server.serving(hub_server.Hub()) as served:
        environment = {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_write"}
        for arguments in (
            ["--mode=export", f"--workdir={trained}", "--output=hf://user/new"],
            [
                "--mode=predict",
                "--workdir=hf://user/new",
                f"--input={tmp_path / 'a.png'}",
                f"--output={tmp_path / 'out'}",
            ],
        ):
            process = command_line.Fork(*arguments, f"--config.cache_dir={cache}", environment=environment)
            status, texts = process.end()
            assert status == 0, texts
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_overlay.jpg"]
    with Image.open(tmp_path / "out/a.png") as mask:
        expected = gcn_jax.load(trained).predict(np.zeros((40, 50, 3), np.uint8))
        np.testing.assert_array_equal(np.array(mask), expected)
