"""Pretrained backbones: features against PyTorch's, and files that are wrong, damaged or hostile."""

import importlib.util
import itertools
import json
import os
import pathlib
import pickle
import re
import struct
import sys
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from flax import traverse_util

import gcn_jax
from bench import twin as twin_lib
from gcn_jax import config as config_lib
from gcn_jax.checkpoints.pretrained import read_backbone
from gcn_jax.checkpoints.tensor_files import MAX_HEADER
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.models import build_model, init_variables
from gcn_jax.models.preprocessing import normalize
from gcn_jax.modes import train
from tests.command_line import ROOT
from tests.helpers import assert_equal, make_twin, randomize, relative

torch = pytest.importorskip("torch")

# Hugging Face's names, by torchvision's: as ResNetForImageClassification of transformers 5.24 lists its tensors.
PARTS = {
    **{f"conv{i + 1}": f"layer.{i}.convolution" for i in range(3)},
    **{f"bn{i + 1}": f"layer.{i}.normalization" for i in range(3)},
    "downsample.0": "shortcut.convolution",
    "downsample.1": "shortcut.normalization",
}
OUTSIDE = {
    "conv1.": "resnet.embedder.embedder.convolution.",
    "bn1.": "resnet.embedder.embedder.normalization.",
    "fc.": "classifier.1.",
}


def hugging_face(name):
    """torchvision's name of a tensor -> Hugging Face's."""
    if block := re.fullmatch(r"layer(\d)\.(\d+)\.(.*)\.(\w+)", name):
        stage, number, part, leaf = block.groups()
        return f"resnet.encoder.stages.{int(stage) - 1}.layers.{number}.{PARTS[part]}.{leaf}"
    ours = next(start for start in OUTSIDE if name.startswith(start))
    return OUTSIDE[ours] + name.removeprefix(ours)


def features_of(model, variables, images):
    backbone = {collection: tree["backbone"] for collection, tree in variables.items()}
    return jax.jit(model.backbone.apply)(backbone, images)


def assert_same_features(model, variables, resnet, size):
    images = np.random.default_rng(1).standard_normal((1, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = resnet(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    found = features_of(model, variables, images)
    errors = {
        name: relative(found[name], feature.numpy().transpose(0, 2, 3, 1))
        for name, feature in zip(("res2", "res3", "res4", "res5"), expected, strict=True)
    }
    assert max(errors.values()) < 1e-3, errors
    return errors


@pytest.fixture(scope="module")
def model():
    return build_model(5, "resnet14", 3, width=4)


@pytest.fixture(scope="module")
def variables(model):
    return randomize(init_variables(model, 0))


@pytest.fixture(scope="module")
def arrays():
    """In torchvision's names."""
    return {name: tensor.numpy() for name, tensor in make_twin().state_dict().items()}


def save(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("strides_in", ["v1.5", "v1"])
def test_features_equal_the_twins(tmp_path, arrays, variables, strides_in):
    model = build_model(5, "resnet14", 3, width=4, strides_in=strides_in)
    path = save(tmp_path / "weights.safetensors", arrays)
    resnet = make_twin(v1=strides_in == "v1")
    assert_same_features(model, gcn_jax.load_backbone(variables, path), resnet, (97, 130))


def test_a_deep_stem_equals_the_twins(tmp_path, arrays):
    """By the names of timm, semseg and mmsegmentation; a file with another stem is told."""
    nn, resnet = torch.nn, make_twin()
    widths = ((3, 2, 2), (2, 2, 1), (2, 4, 1))
    convs = [nn.Conv2d(c, d, 3, stride, 1, bias=False) for c, d, stride in widths]
    norms = [nn.BatchNorm2d(d) for _, d, _ in widths]
    for norm in norms:
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    resnet.conv1 = nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU(), convs[2])
    resnet.bn1 = norms[2]
    found = {name: tensor.numpy() for name, tensor in resnet.eval().state_dict().items()}
    model = build_model(5, "resnet14", 3, width=4, stem="deep")
    path = save(tmp_path / "timm.safetensors", found)
    loaded = gcn_jax.load_backbone(init_variables(model, 0), path)
    assert_same_features(model, loaded, resnet, (97, 130))

    timm = {"conv1.0.": 0, "conv1.1.": 1, "conv1.3.": 2, "conv1.4.": 3, "conv1.6.": 4, "bn1.": 5}
    for library, names in (
        ("semseg", ("conv1.", "bn1.", "conv2.", "bn2.", "conv3.", "bn3.")),
        ("mmsegmentation", ("stem.0.", "stem.1.", "stem.3.", "stem.4.", "stem.6.", "stem.7.")),
    ):
        stems = {old: names[place] for old, place in timm.items()}
        prefix = {name: next((old for old in stems if name.startswith(old)), "") for name in found}
        renamed = {stems.get(old, "") + name.removeprefix(old): found[name] for name, old in prefix.items()}
        other, report = read_backbone(init_variables(model, 0), save(tmp_path / f"{library}.npz", renamed))
        assert_equal(other, loaded)
        assert library in report.lines()[0]
        with pytest.raises(ValueError, match=r"set config\.model\.stem=deep"):
            gcn_jax.load_backbone(
                init_variables(build_model(5, "resnet14", 3, width=4), 0), tmp_path / f"{library}.npz"
            )
    with pytest.raises(ValueError, match=r"set config\.model\.stem=conv7x7"):
        gcn_jax.load_backbone(init_variables(model, 0), save(tmp_path / "plain.npz", arrays))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "sizes"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3))])
def test_features_of_basic_blocks_equal_the_twins(tmp_path, backbone, sizes):
    """By torchvision's and by Hugging Face's names."""
    model, resnet = build_model(5, backbone, 3, width=4), make_twin(sizes, basic=True)
    found = {name: tensor.numpy() for name, tensor in resnet.state_dict().items()}
    variables = init_variables(model, 0)
    loaded = gcn_jax.load_backbone(variables, save(tmp_path / "weights.safetensors", found))
    assert_same_features(model, loaded, resnet, (97, 130))
    renamed = {hugging_face(name): array for name, array in found.items() if "num_batches" not in name}
    assert_equal(gcn_jax.load_backbone(variables, save(tmp_path / "other.safetensors", renamed)), loaded)


@pytest.mark.parametrize(
    ("backbone", "sizes", "stride"),
    [
        ("resnet14", (1, 1, 1, 1), 8),
        *(
            pytest.param(name, (2, 2, 2, 2), *s, marks=pytest.mark.slow)
            for name, *s in (("resnet26", 8), ("resnet18", 16))
        ),
    ],
)
def test_features_of_a_dilated_backbone_equal_the_twins(tmp_path, backbone, sizes, stride):
    model = build_model(5, backbone, width=4, decoder="fcn8s", output_stride=stride)
    resnet = make_twin(sizes, basic=backbone == "resnet18", output_stride=stride)
    found = {name: tensor.numpy() for name, tensor in resnet.state_dict().items()}
    loaded = gcn_jax.load_backbone(init_variables(model, 0), save(tmp_path / "weights.safetensors", found))
    assert_same_features(model, loaded, resnet, (97, 130))


def test_the_kind_of_blocks_is_named(tmp_path, arrays):
    variables = init_variables(build_model(5, "resnet18", 3, width=4), 0)
    with pytest.raises(ValueError, match=r"a third convolution \(layer1.0.conv3.weight\), as in ResNet-50 and deeper"):
        gcn_jax.load_backbone(variables, save(tmp_path / "weights.safetensors", arrays))


def test_features_of_a_real_file_equal_the_twins():
    """The tensors of a ResNet-152 in torchvision's names, in the file that GCN_JAX_RESNET152 names."""
    if "GCN_JAX_RESNET152" not in os.environ:
        pytest.skip("GCN_JAX_RESNET152 names no file of real weights")
    path, model = pathlib.Path(os.environ["GCN_JAX_RESNET152"]), build_model()
    variables = gcn_jax.load_backbone(init_variables(model, 0), path)
    resnet = twin_lib.ResNet((3, 8, 36, 3), 64).eval()
    state = {name: torch.from_numpy(array) for name, array in safetensors.numpy.load_file(path).items()}
    missing = resnet.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    print(assert_same_features(model, variables, resnet, (256, 256)))


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pth", "pt", "bin"])
def test_all_names_and_files_give_the_same(tmp_path, arrays, variables, ending):
    untouched = jax.tree.map(np.copy, variables)
    expected, report = read_backbone(variables, save(tmp_path / f"plain.{ending}", arrays))
    assert report.names == "torchvision"
    assert set(report.unused) == {name for name in arrays if "fc" in name or "num_batches" in name}
    flat = traverse_util.flatten_dict(variables, sep="/")
    assert set(report.loaded) == {name for name in flat if name.split("/")[1] == "backbone"}
    assert set(report.left) == flat.keys() - set(report.loaded)
    assert [line.split(": ")[-1] for line in report.lines()][1:] == [
        f"{len(report.left)} tensors of gcn_res2, gcn_res3, gcn_res4, gcn_res5 and 14 more",
        "fc.bias, fc.weight",
    ]
    _assert_backbone(expected, arrays)
    names = {
        **{prefix: {prefix + name: array for name, array in arrays.items()} for prefix in ("module.", "a.b.encoder.")},
        "Hugging Face": {hugging_face(name): array for name, array in arrays.items()},
        "ResNetModel": {hugging_face(name).removeprefix("resnet."): array for name, array in arrays.items()},
        "a foreign head": {**arrays, "head.layer1.0.conv1.bias": np.zeros(3), "projector.weight": np.ones((2, 2))},
    }
    for title, renamed in names.items():
        found, report = read_backbone(variables, save(tmp_path / f"{title}.{ending}", renamed))
        assert report.names == ("Hugging Face" if title in ("Hugging Face", "ResNetModel") else "torchvision")
        assert_equal(found, expected)
    assert_equal(variables, untouched)


def _assert_backbone(variables, arrays):
    flat = twin_lib.flatten(variables)
    names = {ours: name.removeprefix("resnet.") for ours, name in twin_lib.key_map((1, 1, 1, 1)).items()}
    for name, value in flat.items():
        if name.startswith("backbone/"):
            np.testing.assert_array_equal(twin_lib.to_torch(name, value).numpy(), arrays[names[name]], strict=True)
    assert sum(name.startswith("backbone/") for name in flat) == 5 * (4 * 4 + 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_half_and_double_precision(tmp_path, arrays, variables, dtype):
    tensors = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in arrays.items()}
    rounded = {name: tensor.to(torch.float32).numpy() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "weights.pth")
    torch.save({"model": tensors}, tmp_path / "weights.bin")
    in_numpy = {name: array.astype(jax.numpy.dtype(dtype)) for name, array in rounded.items()}
    np.savez_compressed(tmp_path / "weights.npz", **in_numpy)
    for path in sorted(tmp_path.iterdir()):
        _assert_backbone(gcn_jax.load_backbone(variables, path), rounded)


def test_files_of_wrong_networks_are_told(tmp_path, arrays, variables):
    """Each in one line, which names the file; nothing is loaded."""

    def without(*names):
        return {name: array for name, array in arrays.items() if name not in names}

    deep = {name: tensor.numpy() for name, tensor in make_twin((3, 4, 23, 3)).state_dict().items()}
    basic = {name: array for name, array in arrays.items() if not re.search("conv3|bn3|downsample", name)}
    nan, infinite, negative = (arrays[name].copy() for name in ("layer4.0.conv2.weight", "bn1.bias", "bn1.running_var"))
    nan[0, 0, 0, 0], infinite[1], negative[2] = np.nan, np.inf, -1
    conv1 = arrays["conv1.weight"]
    wrong = {
        r"is resnet101 \(3, 4, 23, 3 blocks\); the model's backbone is resnet14 \(1, 1, 1, 1 blocks\)": deep,
        r"is a ResNet of unknown depth \(1, 1, 2, 1 blocks\); the model's backbone is resnet14": (
            arrays | {"layer3.1.conv1.weight": conv1}
        ),
        r"is a ResNet of unknown depth \(1, 1, 1, 1, 1 blocks\)": arrays | {"layer5.0.conv1.weight": conv1},
        r"no third convolution \(layer1.0.conv3.weight\), as in ResNet-18": basic,
        "holds no ResNet in the names of torchvision, timm or Hugging Face; it holds conv1.weight": {
            "conv1.weight": conv1
        },
        "holds 2 ResNets, under 'encoder_k.', 'encoder_q.'; save one": {
            f"{prefix}.{name}": array for name, array in arrays.items() for prefix in ("encoder_q", "encoder_k")
        },
        "lacks bn1.weight of a ResNet in torchvision's names": without("bn1.weight"),
        "lacks layer2.0.bn1.running_var, layer4.0.conv3.weight of": without(
            "layer2.0.bn1.running_var", "layer4.0.conv3.weight"
        ),
        "another architecture than ResNet's, which has no layer1.0.se.fc1.weight": (
            arrays | {"layer1.0.se.fc1.weight": conv1}
        ),
        r"layer2.0.conv2.weight is \(8, 4, 3, 3\); the model's backbone needs \(8, 8, 3, 3\)$": (
            arrays | {"layer2.0.conv2.weight": np.zeros((8, 4, 3, 3), np.float32)}
        ),
        r"conv1.weight is \(8, 3, 7, 7\); the model's backbone needs \(4, 3, 7, 7\) \(and 84 more tensors\)": {
            name: tensor.numpy() for name, tensor in make_twin(width=8).state_dict().items()
        },
        "layer4.0.conv2.weight holds NaN or infinite values": arrays | {"layer4.0.conv2.weight": nan},
        "bn1.bias holds NaN or infinite values": arrays | {"bn1.bias": infinite},
        "bn1.running_var holds negative variances": arrays | {"bn1.running_var": negative},
        "bn1.weight is of type int": arrays | {"bn1.weight": np.ones(4, np.int8)},
    }
    untouched = jax.tree.map(np.copy, variables)
    for message, contents in wrong.items():
        for ending in ("safetensors", "npz"):
            path = save(tmp_path / f"weights.{ending}", contents)
            with pytest.raises(ValueError, match=message.replace("of type int", "of type (I8|int8)")) as error:
                gcn_jax.load_backbone(variables, path)
            assert str(error.value).startswith(f"{path}: ")
            assert "\n" not in str(error.value)
    assert_equal(variables, untouched)


def test_values_beyond_float32_are_not_finite(tmp_path, arrays, variables):
    path = save(tmp_path / "weights.npz", arrays | {"bn1.bias": np.full(4, 1e300)})
    with pytest.raises(ValueError, match=r"bn1.bias holds NaN or infinite values"):
        gcn_jax.load_backbone(variables, path)


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pth"])
def test_files_cut_short_or_damaged(tmp_path, arrays, variables, ending):
    """Cut anywhere; and bits turned in the middle, where a format notices."""
    path = save(tmp_path / f"weights.{ending}", arrays)
    whole = path.read_bytes()
    for length in (0, 5, 9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            gcn_jax.load_backbone(variables, path)
        assert "\n" not in str(error.value)
    if ending == "npz":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
        with pytest.raises(ValueError, match="damaged or cut short"):
            gcn_jax.load_backbone(variables, path)


def test_files_that_are_not_there_or_of_no_known_kind(tmp_path, variables):
    for name, message in {
        "none.safetensors": "No such file",
        "weights.h5": "not a file of weights that is known by its ending; known: .safetensors, .npz, .pth, .pt, .bin",
        "weights": "known by its ending",
    }.items():
        with pytest.raises(ValueError, match=message):
            gcn_jax.load_backbone(variables, tmp_path / name)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match=r"folder.npz: cannot be read \(Is a directory\)"):
        gcn_jax.load_backbone(variables, tmp_path / "folder.npz")


def _one_tensor(**entry):
    header = json.dumps({"conv1.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **entry}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (struct.pack("<Q", 2**63) + b"{", 100, "its header claims 9,223,372,036,854,775,808 bytes; 92 are there"),
        (struct.pack("<Q", 93) + b"{", 100, "its header claims 93 bytes; 92 are there"),
        # A file of holes, which is as large as it claims: the library would read 100 MB.
        (struct.pack("<Q", 90 * 2**20) + b"{", 2**40, f"more than {MAX_HEADER:,} are never read"),
        (struct.pack("<Q", 80) + b"{", 100, "damaged"),
        (_one_tensor(shape=[2**62, 2**62]), None, "damaged"),
        (_one_tensor(shape=[2**40]), None, "damaged"),
        (_one_tensor(data_offsets=[0, 2**60]), None, "damaged"),
        (_one_tensor(data_offsets=[4, 0]), None, "damaged"),
        (_one_tensor(shape=[-1]), None, "damaged"),
        (struct.pack("<Q", 2**17) + b'{"a":' * 2**14, 2**17 + 8, "damaged"),
    ],
)
def test_absurd_headers_are_refused_before_they_are_read(tmp_path, variables, content, size, message):
    path = tmp_path / "bomb.safetensors"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size or len(content))
    with pytest.raises(ValueError, match=message):
        gcn_jax.load_backbone(variables, path)


def test_absurd_headers_of_npz_are_refused(tmp_path, arrays, variables):
    """An array that claims to be huge, and a header that would be unpacked to gigabytes."""

    def write(member):
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as file:
                    if name == "conv1.weight":
                        file.write(member)
                    else:
                        np.lib.format.write_array(file, array)
        return tmp_path / "bomb.npz"

    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
    with pytest.raises(ValueError, match=r"conv1.weight is \(1000000, 1000000\); the model's backbone needs"):
        gcn_jax.load_backbone(variables, write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header))
    with pytest.raises(ValueError, match=r"conv1.weight is damaged .an array of format 2.0; known: 1.0"):
        gcn_jax.load_backbone(variables, write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(2**20)))
    with pytest.raises(ValueError, match=r"conv1.weight is damaged"):
        gcn_jax.load_backbone(variables, write(b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000))


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_pickles_do_not_run(tmp_path, arrays, variables):
    trace = tmp_path / "it ran"
    hostile = pickle.dumps({"conv1.weight": Hostile(trace)})
    torch.save({**arrays, "conv1.weight": Hostile(trace)}, tmp_path / "new.pth")
    torch.save({"state_dict": Hostile(trace)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "objects.npz", **{**arrays, "conv1.weight": np.array([Hostile(trace)], object)})
    for name in ("plain.safetensors", "plain.npz", "plain.pth", "plain.pt", "plain.bin"):
        (tmp_path / name).write_bytes(hostile)
    for name in ("disguised.npz", "disguised.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "new.pth").read_bytes())
    header = struct.pack("<Q", len(hostile))
    (tmp_path / "framed.safetensors").write_bytes(header + hostile)
    with zipfile.ZipFile(tmp_path / "inside.npz", "w") as archive:
        archive.writestr("conv1.weight.npy", hostile)
    paths = sorted(path for path in tmp_path.iterdir() if path != trace)
    assert len(paths) == 12
    for path in paths:
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            gcn_jax.load_backbone(variables, path)
        assert "\n" not in str(error.value)
        assert not trace.exists(), path
    pickle.loads(hostile)
    assert trace.exists(), "or the test shows nothing"


def test_without_pytorch_a_message_says_how_to_convert(tmp_path, arrays, variables, monkeypatch):
    path = save(tmp_path / "weights.pth", arrays)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="only PyTorch reads this") as error:
        gcn_jax.load_backbone(variables, path)
    command = re.search(r"python -c '(.*)'$", str(error.value)).group(1)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    exec(command)
    _assert_backbone(gcn_jax.load_backbone(variables, tmp_path / "weights.safetensors"), arrays)


def test_training_starts_from_a_file(tmp_path, arrays, config, capfd):
    config.init_from = str(save(tmp_path / "weights.safetensors", arrays))
    random = init_variables(config_lib.model_from(config), config.seed)
    train.check_start(config, tmp_path / "run", is_resumed=False)
    variables = train.start_weights(config, random)
    _assert_backbone(variables, arrays)
    heads = {name: value for name, value in twin_lib.flatten(variables).items() if not name.startswith("backbone")}
    assert len(heads) > 50
    for name, value in heads.items():
        np.testing.assert_array_equal(value, twin_lib.flatten(random)[name])
    assert "85 tensors of the backbone loaded, by torchvision's names" in capfd.readouterr().err


def test_a_wrong_file_ends_training_before_it_starts(tmp_path, arrays, config):
    path = save(tmp_path / "weights.safetensors", {**arrays, "bn1.bias": np.full(4, np.nan, np.float32)})
    config.init_from, config.mesh.data = str(path), 1
    with pytest.raises(UserError, match=f"^config.init_from={path}: bn1.bias holds NaN or infinite values$"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_norms_that_are_part_of_the_kernels_keep_their_statistics(tmp_path, arrays, config, capfd):
    identity = {"running_mean": 0.0, "running_var": 1 - 1e-5}
    folded = {name: np.full_like(array, identity.get(name.rpartition(".")[2], array)) for name, array in arrays.items()}
    config.init_from = str(save(tmp_path / "weights.safetensors", folded))
    random = init_variables(config_lib.model_from(config), config.seed)
    for norm, is_warned in (("frozen", False), ("train", True)):
        config.model.norm = norm
        train.start_weights(config, random)
        assert ("warning: config.init_from=" in capfd.readouterr().err) == is_warned
    config.reestimate.batches = 1
    with pytest.raises(UserError, match=r"part of the kernels there, .*: set --config\.reestimate\.batches=0"):
        train.start_weights(config, random)
    config.init_from = str(save(tmp_path / "others.safetensors", arrays))
    train.start_weights(config, random)


def test_channels_are_as_the_weights_want_them(config):
    """BGR, minus the mean alone, as Caffe's weights want it; both given in RGB order."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    mean, std = np.array(config.data.mean), np.array(config.data.std)
    np.testing.assert_allclose(normalize(images, settings.preprocessing(config)), (images - mean) / std, atol=1e-6)
    config.data.channels, config.data.mean, config.data.std = "BGR", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)
    blue, green, red = images[..., 2] - 104.0, images[..., 1] - 117.0, images[..., 0] - 123.0
    np.testing.assert_array_equal(
        normalize(images, settings.preprocessing(config)), np.stack([blue, green, red], axis=-1)
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("channels", "GBR", "config.data.channels must be RGB, BGR, a number of bands .* Got 'GBR'"),
        ("mean", (1.0, 2.0), "config.data.mean must be three numbers, RGB, 0-255"),
        ("mean", (1.0, 2.0, float("nan")), "config.data.mean must be three numbers"),
        ("std", (1.0, "2", 3.0), "config.data.std must be three positive numbers"),
    ],
)
def test_wrong_preprocessing_is_named(config, key, value, message):
    config.data[key] = value
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


def test_the_example_names_the_layers_of_a_resnet_50():
    """In the order of the network it reads: in PyTorch's, the projection comes last in a block."""
    twin = make_twin((3, 4, 6, 3), width=4)
    spec = importlib.util.spec_from_file_location("thin_backbone", ROOT / "examples/thin_backbone.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    modules = [name for name, module in twin.named_modules() if list(module.parameters(recurse=False)) and name != "fc"]
    pairs = list(example.layers())
    assert sorted(itertools.chain(*pairs)) == sorted(modules)
    assert set(pairs) == set(zip(modules[::2], modules[1::2], strict=True)), "a convolution, and the norm behind it"
