"""A trained model in other programs' formats: the same labels there, from the lines that docs/export.md shows."""

import collections
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import warnings
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax

import gcn_jax
from gcn_jax.checkpoints import model_file
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.models import DECODERS, init_variables
from gcn_jax.models.ops import xla
from gcn_jax.models.preprocessing import normalize
from gcn_jax.modes.export import run as run_export
from tests.helpers import labeller, randomize

ROOT = pathlib.Path(__file__).parents[1]
MISSING = 'pip install -c requirements.txt ".[dev]"'
LITERT = "pip install --no-deps litert-converter==0.5.0, and ai-edge-litert"


@pytest.fixture
def config(config):
    config.data.update(channels="BGR", std=(50.0, 60.0, 70.0))
    config.model.update(width=8, kernel_size=5)
    config.eval.temperature = 1.5
    return config


def segmenter_of(config, seed=0):
    """A model with random weights."""
    return make_segmenter(config, randomize(init_variables(settings.model_from(config), seed)))


def image_of(segmenter, height, width, seed=0):
    """A random image of the kind that a model takes: blocks, and noise."""
    rng = np.random.default_rng(seed)
    shape = -(-height // 8), -(-width // 8), segmenter.model.channels
    image = rng.integers(0, 230, shape).repeat(8, 0).repeat(8, 1)[:height, :width]
    return (image + rng.integers(0, 25, image.shape)).astype(segmenter.preprocessing.dtype)


def assert_same(segmenter, image, labels, probabilities):
    """What a model says of an image, and what another program does."""
    (ours,) = segmenter.rows(image, ("labels", "probabilities"))
    expected = ours["probabilities"]
    assert (labels.dtype, labels.shape) == (np.uint8, image.shape[:2])
    assert (probabilities.dtype, probabilities.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=2e-5)
    assert (labels == ours["labels"]).mean() > 0.9995
    assert len(np.unique(labels)) > 1 or labels.size < 1000


def onnx_session(segmenter):
    """Runs a model by onnxruntime."""
    onnx = pytest.importorskip("onnx", reason=MISSING)
    onnxruntime = pytest.importorskip("onnxruntime", reason=MISSING)
    from gcn_jax.export import onnx_file

    data = onnx_file.to_bytes(segmenter, {})
    onnx.checker.check_model(data, full_check=True)
    return onnxruntime.InferenceSession(data)


def test_overlapping_classes_in_other_programs(config):
    """A mask of each class, from its own sigmoid: by onnxruntime, and by jax from StableHLO."""
    pytest.importorskip("flatbuffers", reason=MISSING)
    import jax.export

    from gcn_jax.export import stablehlo

    config.data.update(train="folder/train", eval="folder/val", classes=("sea", "land", "ice"), multi_label=True)
    segmenter = segmenter_of(config)
    image = image_of(segmenter, 64, 64)
    (ours,) = segmenter.rows(image, ("labels", "probabilities"))
    assert ours["labels"].any()
    assert not ours["labels"].all()
    program = jax.export.deserialize(bytearray(stablehlo.to_bytes(segmenter, {})))
    found = [onnx_session(segmenter).run(None, {"images": image[None]})]
    found.append([np.asarray(program.call(image[None])[name]) for name in ("labels", "probabilities")])
    for labels, probabilities in found:
        assert (labels.dtype, labels.shape) == (np.uint8, (1, 64, 64, 3))
        np.testing.assert_allclose(probabilities[0], ours["probabilities"], rtol=0, atol=2e-5)
        assert (labels[0] == ours["labels"]).mean() > 0.9995


def test_onnx_gives_our_labels_of_any_size(config):
    segmenter = segmenter_of(config)
    session = onnx_session(segmenter)
    for height, width in ((64, 64), (50, 33), (1, 40)):
        images = [image_of(segmenter, height, width, seed) for seed in range(2)]
        for image, *found in zip(images, *session.run(None, {"images": np.stack(images)}), strict=True):
            assert_same(segmenter, image, *found)


@pytest.mark.slow
def test_onnx_gives_our_labels_of_larger_images(config):
    segmenter = segmenter_of(config)
    session = onnx_session(segmenter)
    for height, width in ((65, 70), (300, 600)):
        image = image_of(segmenter, height, width)
        labels, probabilities = session.run(None, {"images": image[None]})
        assert_same(segmenter, image, labels[0], probabilities[0])


BANDS = {
    "train": "folder/train",
    "eval": "folder/val",
    "classes": ("sea", "land", "ice"),
    "channels": "4,3,2,1",
    "mean": (90.0, 100.5, 110.0, 120.0),
    "std": (50.0, 60.0, 70.0, 80.0),
}
ARCHITECTURES = [
    {"head": "conv1x1", "norm": "train", "strides_in": "v1"},
    {"head": "conv", "boundary_refine": False},
    {"head": "stack3x3", "head_width": 6},
    {"head": "strips"},
    {"head": "strip_attention"},
    {"branches": "concat", "stem_width": 16, "stem": "deep"},
    {"backbone": "resnet50_gcn"},
    {"backbone": "resnet18"},
    {"backbone": "resnet18", "stem_width": 16},
    {"depth": "uint16"},
    {"depth": "float32"},
]


@pytest.mark.slow
@pytest.mark.parametrize("values", ARCHITECTURES, ids=lambda values: "-".join(map(str, values.values())))
def test_onnx_has_every_architecture(config, values):
    config.data.update({**BANDS, **values} if "depth" in values else {})
    config.model.update({} if "depth" in values else values)
    segmenter = segmenter_of(config)
    image = image_of(segmenter, 60, 40)
    if values.get("depth") == "float32":
        image[3, 5], image[4, 5] = np.nan, np.inf
    labels, probabilities = onnx_session(segmenter).run(None, {"images": image[None]})
    assert_same(segmenter, image, labels[0], probabilities[0])


@pytest.mark.parametrize("size", [50, 512, 700, 3000])
def test_onnx_pads_as_we_do(config, size):
    onnx = pytest.importorskip("onnx", reason=MISSING)
    onnxruntime = pytest.importorskip("onnxruntime", reason=MISSING)
    from gcn_jax.export.onnx_file import canvas
    from gcn_jax.export.onnx_graph import Graph

    config.data.size = size
    ours = labeller(settings.model_from(config), config)
    graph = Graph()
    graph.add("Identity", canvas(graph, "size", size), name="canvas")
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [2]) for name in ("size", "canvas")]
    session = onnxruntime.InferenceSession(graph.to_bytes(sides[0], sides[1:], {}, ""))
    rng = np.random.default_rng(size)
    edges = np.array([1, 31, 32, 33, 50, 512, 513, 700, 1024, 1025, 2048])
    for height, width in [*np.stack(np.meshgrid(edges, edges), -1).reshape(-1, 2), *rng.integers(1, 4000, (50, 2))]:
        (found,) = session.run(None, {"size": np.array([height, width])})
        expected = ours.canvas(int(height), int(width))
        if expected is None:  # in windows there
            expected = tuple(-(-int(side) // 32) * 32 for side in (height, width))
        assert tuple(found) == expected


@pytest.fixture
def trained(tmp_path, config):
    """A model's file."""
    path = tmp_path / "model.safetensors"
    model_file.save(path, segmenter_of(config).variables, config, 7)
    return path


def test_a_file_becomes_onnx(tmp_path, config, trained, capfd):
    onnx = pytest.importorskip("onnx", reason=MISSING)
    output = tmp_path / "new" / "model.onnx"
    config.eval.update(flip=True, temperature=0.0)
    run_export(config, trained, output)
    left_out, written = capfd.readouterr().err.splitlines()
    assert left_out == f"{output}: takes an image whole and once; not in it: config.eval.flip"
    assert written.startswith(f"written: {output}, step 7 of {trained}, ")
    model = onnx.load(output)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert (told["opset"], told["temperature"], told["step"]) == ("17", "1.5", "7")
    assert [entry["name"] for entry in json.loads(told["classes"])["classes"]][:2] == ["background", "disk"]
    assert json.loads(told["preprocessing"])["channels"] == "BGR"
    assert told["licence"].startswith("gcn_jax: Apache-2.0; ")


def test_the_licence_of_the_data_is_told(config):
    from gcn_jax.data.sources import licences

    config.data.update(train="sbd/train+voc_segmentation/train-coco_voc/val", eval="voc_segmentation/val")
    assert licences(settings.datasets(config)).keys() == {"sbd", "voc_segmentation"}


@pytest.mark.parametrize("suffix", ["onnx", "stablehlo", "tflite"])
def test_a_missing_library_is_told_first(tmp_path, config, suffix):
    """Before anything is read: there is no such workdir."""
    output = tmp_path / f"model.{suffix}"
    installs = r"--no-deps litert-converter==" if suffix == "tflite" else rf'-c requirements.txt "\.\[{suffix}\]"'
    with (
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(UserError, match=rf"^--output={output}: needs a library: pip install {installs}"),
    ):
        run_export(config, tmp_path / "none", output)
    output.write_text("mine")
    with pytest.raises(UserError, match=rf"^--output={output}: exists already"):
        run_export(config, tmp_path / "none", output)
    assert output.read_text() == "mine"


def test_an_unknown_suffix_is_told_first(tmp_path, config):
    for name in ("model.pt", "model.onnx.zip"):
        with pytest.raises(
            UserError,
            match=r"must end in \.safetensors, \.onnx, \.stablehlo or \.tflite, be .*, or be hf://USER/MODEL$",
        ):
            run_export(config, tmp_path / "none", tmp_path / name)


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_a_layer_that_the_exporter_lacks_is_named(tmp_path, config, trained, change):
    pytest.importorskip("onnx", reason=MISSING)
    step, variables = model_file.load_trained(trained, "best")
    if change == "more":
        variables["params"]["attention"] = {"kernel": np.zeros((1, 1, 7, 7))}
    else:
        del variables["params"]["backbone"]["res3_block1"]["conv_proj"]
    named = "params/attention/kernel" if change == "more" else "params/backbone/res3_block1/conv_proj/kernel"
    with (
        mock.patch.object(model_file, "load_trained", return_value=(step, variables)),
        pytest.raises(UserError, match=rf"model\.onnx: the exporter to ONNX .*{named}.*; export to \.safetensors"),
    ):
        run_export(config, trained, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def decoded(config, decoder, **others):
    """A model with another decoder and random weights, by a temperature with which its scores vary by about 1."""
    config.model.update(decoder=decoder, **others)
    segmenter = segmenter_of(config)
    scores = unpadded_scores(segmenter, image_of(segmenter, 45, 61))
    config.eval.temperature = float(log_softmax(scores, axis=-1).std((0, 1)).max())
    return segmenter_of(config)


def unpadded_scores(segmenter, image):
    """The network's logits of an image of its own size."""
    with xla.platform("cpu"):
        return jax.jit(segmenter.model.apply)(segmenter.variables, normalize(image[None], segmenter.preprocessing))[0]


def onnx_differs_by(segmenter, height, width):
    """By how much the logarithms of onnxruntime's probabilities differ from those of ours, at most."""
    image = image_of(segmenter, height, width)
    (ours,) = segmenter.rows(image, ("probabilities",))
    _, (found,) = onnx_session(segmenter).run(None, {"images": image[None]})
    found, expected = np.log(found), np.log(ours["probabilities"])
    assert expected.std((0, 1)).max() > 0.3, "they tell pixels apart"
    return np.abs(found - expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", sorted(DECODERS.keys() - {"gcn"}))
def test_onnx_and_stablehlo_have_every_decoder(config, decoder):
    """With padding, which some leave out of means, for onnxruntime; without, in another size, for jax."""
    pytest.importorskip("flatbuffers", reason=MISSING)
    import jax.export

    from gcn_jax.export import stablehlo

    segmenter = decoded(config, decoder)
    assert onnx_differs_by(segmenter, 50, 33) < 1e-3
    image = image_of(segmenter, 45, 61)
    program = jax.export.deserialize(bytearray(stablehlo.to_bytes(segmenter, {})))
    (found,) = np.asarray(program.call(image[None])["probabilities"])
    expected = log_softmax(unpadded_scores(segmenter, image) / segmenter.protocol.temperature, axis=-1)
    np.testing.assert_allclose(np.log(found), expected, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("others", [{"output_stride": 16}, {"backbone": "resnet18"}, {"fused_scales": (0.75, 1.3)}])
def test_onnx_has_dilated_backbones_and_several_scales(config, others):
    assert onnx_differs_by(decoded(config, "pspnet", **others), 50, 33) < 1e-3


def test_a_decoder_that_the_exporter_lacks_is_named(config):
    pytest.importorskip("onnx", reason=MISSING)
    from gcn_jax.export import onnx_file, onnx_network

    with mock.patch.object(onnx_network, "DECODERS", {}), pytest.raises(ValueError, match="lacks the decoder GCN"):
        onnx_file.to_bytes(segmenter_of(config), {})


def test_stablehlo_of_several_scales_is_refused(config):
    pytest.importorskip("flatbuffers", reason=MISSING)
    from gcn_jax.export import stablehlo

    with pytest.raises(ValueError, match="fused_scales needs to know it"):
        stablehlo.to_bytes(decoded(config, "fcn8s", fused_scales=(0.5,)), {})


def test_weights_beyond_a_file_of_onnx_are_refused():
    pytest.importorskip("onnx", reason=MISSING)
    from gcn_jax.export import onnx_graph

    graph = onnx_graph.Graph()
    graph.constant(np.zeros(1000, np.float32))
    with mock.patch.object(onnx_graph, "_MOST_BYTES", 3999), pytest.raises(ValueError, match="exceed the 2 GB"):
        graph.to_bytes(None, (), {}, "")


def shown(start):
    """The lines of Python in docs/export.md below a line with a certain start, a regular expression."""
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    return re.search(rf"^{start}.*?^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]


def run_shown(heading, folder):
    """Runs them beside a model in a process that cannot import gcn_jax; returns labels.png."""
    code = f"import sys\nsys.modules['gcn_jax'] = None\n{shown('## ' + heading)}"
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True, timeout=300)
    return np.asarray(Image.open(folder / "labels.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "suffix", "packages"),
    [
        ("ONNX", "onnx", ("onnx", "onnxruntime")),
        ("StableHLO", "stablehlo", ("flatbuffers",)),
        ("LiteRT", "tflite", ("litert_converter", "ai_edge_litert")),
    ],
)
def test_the_lines_in_the_docs(tmp_path, config, heading, suffix, packages):
    for package in packages:
        pytest.importorskip(package, reason=LITERT if suffix == "tflite" else MISSING)
    config.data.update(size=96 if suffix == "tflite" else 512, mean=(123.675, 116.28, 103.53))
    segmenter = segmenter_of(config)
    model_file.save(tmp_path / "model.safetensors", segmenter.variables, config, 7)
    run_export(config, tmp_path / "model.safetensors", tmp_path / f"model.{suffix}")
    Image.fromarray(image_of(segmenter, 70, 90)).save(tmp_path / "photo.jpg", quality=95)
    found = run_shown(heading, tmp_path)
    image = np.asarray(Image.open(tmp_path / "photo.jpg"))
    expected = gcn_jax.load(tmp_path / "model.safetensors").predict(image)
    if suffix == "onnx":  # a picture in the classes' colours
        expected = segmenter.spec.palette()[expected]
    assert found.shape == expected.shape
    assert (found == expected).mean() > 0.999


@pytest.mark.slow
def test_the_lines_for_smaller_files(tmp_path, config):
    pytest.importorskip("onnx", reason=MISSING)
    onnxruntime = pytest.importorskip("onnxruntime", reason=MISSING)
    from gcn_jax.export import onnx_file

    segmenter = segmenter_of(config)
    (tmp_path / "model.onnx").write_bytes(onnx_file.to_bytes(segmenter, {}))
    images = [image_of(segmenter, 64, 64, seed) for seed in range(4)]
    code = shown(r"\*\*Half the size")
    with contextlib.chdir(tmp_path), warnings.catch_warnings(action="ignore"):
        exec(code, {"images": images, "__name__": "shown"})
    image = {"images": images[0][None]}
    labels, _ = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, image)
    for name, least, share in (("half", 0.99, 0.7), ("int8", 0.8, 0.6)):
        path = tmp_path / f"{name}.onnx"
        assert (onnxruntime.InferenceSession(path).run(None, image)[0] == labels).mean() > least
        assert path.stat().st_size < share * (tmp_path / "model.onnx").stat().st_size


@pytest.mark.slow
def test_stablehlo_is_one_program_for_all_platforms(config):
    pytest.importorskip("flatbuffers", reason=MISSING)
    import jax.export

    from gcn_jax.export import stablehlo

    segmenter = segmenter_of(config)
    model = jax.export.deserialize(bytearray(stablehlo.to_bytes(segmenter, {})))
    assert model.platforms == ("cpu", "cuda", "tpu")
    text = model.mlir_module()
    convolutions = collections.Counter(re.findall(r"stablehlo\.convolution\(.*?\) (dim_numbers.*)", text))
    assert {count % 3 for count in convolutions.values()} == {0}, "each platform has the same"
    assert "dot_general" not in text, "no form of one platform alone"
    assert set(re.findall(r"custom_call @(\w+)", text)) <= {"shape_assertion"}
    for height, width in ((64, 64), (33, 50)):  # of any size, padded or not
        image = image_of(segmenter, height, width)
        found = model.call(np.stack([image, image]))
        np.testing.assert_array_equal(found["labels"][0], found["labels"][1])
    image = image_of(segmenter, 64, 64)
    found = {name: np.asarray(value)[0] for name, value in model.call(image[None]).items()}
    assert_same(segmenter, image, found["labels"], found["probabilities"])


@pytest.mark.slow
def test_tflite_of_a_bfloat16_model(config):
    pytest.importorskip("litert_converter", reason=LITERT)
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason=LITERT)
    from gcn_jax.export import tflite

    segmenter = segmenter_of(config)
    config.model.dtype = "bfloat16"
    run = interpreter.Interpreter(model_content=tflite.to_bytes(segmenter_of(config), {})).get_signature_runner()
    image = image_of(segmenter, 64, 64)
    found = run(images=image[None])
    assert_same(segmenter, image, found["labels"][0], found["probabilities"][0])


@pytest.mark.slow
def test_tflite_has_every_decoder(config):
    pytest.importorskip("litert_converter", reason=LITERT)
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason=LITERT)
    from gcn_jax.export import tflite

    for decoder in sorted(DECODERS.keys() - {"gcn"}):
        segmenter = decoded(config, decoder)
        run = interpreter.Interpreter(model_content=tflite.to_bytes(segmenter, {})).get_signature_runner()
        image = image_of(segmenter, 64, 64)
        (ours,) = segmenter.rows(image, ("probabilities",))
        found = run(images=image[None])["probabilities"][0]
        np.testing.assert_allclose(np.log(found), np.log(ours["probabilities"]), rtol=0, atol=1e-3, err_msg=decoder)


@pytest.mark.slow
def test_the_paper_s_network_on_photographs(config, real_data):
    config.data.update(train="voc_segmentation/train", eval="voc_segmentation/val", size=512)
    config.model.update(backbone="resnet152", width=64, kernel_size=15)
    segmenter = segmenter_of(config)
    session = onnx_session(segmenter)
    for path in sorted(real_data.glob("VOCdevkit/VOC2012/JPEGImages/*.jpg"))[:3]:
        image = np.asarray(Image.open(path).convert("RGB"))
        labels, probabilities = session.run(None, {"images": image[None]})
        np.testing.assert_allclose(probabilities[0], segmenter.probabilities(image), rtol=0, atol=1e-4)
        assert (labels[0] == segmenter.predict(image)).mean() >= 0.9999
