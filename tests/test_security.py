"""docs/security.md, claim by claim: nothing that is given or downloaded is executed, and nothing leaves its folder."""

import contextlib
import io
import json
import pathlib
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.checkpoints import manager as checkpoints
from gcn_jax.checkpoints import saved_config
from gcn_jax.config import settings
from gcn_jax.data.builders.archives import Folder, open_archive
from gcn_jax.data.image_files import MAX_PIXELS
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import decode_ids, decode_own_label
from gcn_jax.data.outlines import draw
from gcn_jax.data.sources import open_folder, open_part
from gcn_jax.errors import UserError
from gcn_jax.modes import predict
from gcn_jax.runtime import mesh
from gcn_jax.training import run_log as logs
from tests.helpers import new_state
from tests.official_data import make_cityscapes, make_sbd, make_voc, pack

SOURCES = pathlib.Path(__file__).parents[1]
MARKUP = "<img src=x onerror=alert(1)>"


# Tries to load each workdir in a folder: what is damaged may not be needed, or lead to an error of any kind.
_LOAD_ALL = """
import contextlib, pathlib, sys
from gcn_jax.checkpoints.manager import load_variables
tried = 0
for workdir in pathlib.Path(sys.argv[1]).iterdir():
    with contextlib.suppress(Exception):
        tried += 1
        load_variables(workdir, "latest", averaged=False)
print(tried, flush=True)
"""


class Trap:
    """What, unpickled, makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


@pytest.fixture
def trap(tmp_path):
    """A pickle that tells when it is unpickled; the test fails if it does."""
    marker = tmp_path / "unpickled"
    data = pickle.dumps(Trap(marker))
    pickle.loads(data)
    assert marker.exists(), "the trap must work"
    marker.unlink()
    yield data
    assert not marker.exists(), "a pickle was unpickled"


def test_no_code_of_ours_can_execute_what_it_reads():
    """No import or call of what runs data: a new one has to be looked at, and named in docs/security.md."""
    found = re.compile(
        r"\b(import (pickle|marshal|shelve|dill|subprocess|yaml)|allow_pickle|np\.load\(|torch\.load|extractall|"
        r"unpack_archive|os\.system|import_module|builder_from_director)|(?<![\w.])(eval|exec)\("
    )
    harmless = re.compile(
        r"allow_pickle=False|torch\.load\([^()]*weights_only=True[^()]*\)|"
        r"import_module\((_HOMES\[name\]|f\"gcn_jax\.{name}\"|f\"{__name__}\.{self\.module}\"|"  # of our own tables
        r"f\"gcn_jax\.export\.{_OTHERS\[output\.suffix\]\.module}\")\)"
    )
    for path in [*(SOURCES / "gcn_jax").rglob("*.py"), *(SOURCES / "configs").glob("*.py"), SOURCES / "run.py"]:
        assert not found.search(harmless.sub("", path.read_text())), path


def test_what_hosts_tell_each_other_is_data(trap, monkeypatch):
    """As two hosts, of which the other has sent a pickle."""
    ours = {"sum": 2**53 + 1, "images": {3: [1.5, None, b"x"]}, "counts": np.arange(3) + 2**40}

    def process_allgather(array):
        theirs = np.frombuffer(trap, np.uint8)
        if array.size == 1:
            return np.array([array, theirs.size])
        both = np.zeros((2, max(array.size, theirs.size)), np.uint8)
        both[0, : array.size], both[1, : theirs.size] = array, theirs
        return both

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(mesh.multihost_utils, "process_allgather", process_allgather)
    with pytest.raises(ValueError, match="unpack"):
        mesh.gather(ours)
    monkeypatch.setattr(mesh.multihost_utils, "process_allgather", lambda array: np.stack([array, array]))
    for copy in mesh.gather(ours):
        assert copy.keys() == ours.keys()
        assert copy["sum"] == 2**53 + 1
        assert copy["images"] == {3: [1.5, None, b"x"]}
        np.testing.assert_array_equal(copy["counts"], ours["counts"], strict=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with one checkpoint; not to be changed."""
    config = config_lib.default()
    config.num_steps = 1
    config.data.update(train="shapes/train", eval="shapes/val", size=64)
    config.model.update(backbone="resnet14", width=4, kernel_size=3)
    workdir = tmp_path_factory.mktemp("saved") / "run"
    workdir.mkdir()
    saved_config.save(config, workdir)
    state = new_state(config, 0)
    with checkpoints.Checkpoints(workdir, 1) as saver:
        saver.save(state, {"batches": 0})
    return workdir


def test_a_pickle_in_place_of_any_file_of_a_workdir(trap, saved, tmp_path):
    for name in ("config.json", "best.json"):
        workdir = shutil.copytree(saved, tmp_path / name)
        (workdir / name).write_bytes(trap)
        with pytest.raises(UserError, match=rf"{name}: damaged"):
            saved_config.load(workdir) and checkpoints.load_variables(workdir, "best", averaged=False)
    workdir = shutil.copytree(saved, tmp_path / "log")
    (workdir / "metrics.jsonl").write_bytes(trap)
    assert logs.read_records(workdir) == []
    files = [path.relative_to(saved) for path in (saved / "checkpoints").rglob("*") if path.is_file()]
    assert len(files) > 8
    workdir = shutil.copytree(saved, tmp_path / "all")
    for name in files:
        (workdir / name).write_bytes(trap)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.load_variables(workdir, "latest", averaged=False)
    kinds = {name.parent.name if name.parent.name == "d" else name: name for name in files}
    for i, name in enumerate(kinds.values()):  # and where there are no digests
        if name.name != "digests.json":
            workdir = shutil.copytree(saved, tmp_path / "without_digests" / str(i))
            (workdir / "checkpoints/0/digests.json").unlink()
            (workdir / name).write_bytes(trap)
    # In a process of its own: what Orbax leaves of reads that it gives up is warned of much later.
    command = [sys.executable, "-c", _LOAD_ALL, str(tmp_path / "without_digests")]
    done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == [str(len(list((tmp_path / "without_digests").iterdir())))]


def test_a_pickle_in_place_of_any_file_of_data(trap, config, tmp_path):
    for decode in (
        lambda: decode_image(trap, "x"),
        lambda: decode_ids(trap, "x", 2),
        lambda: decode_own_label(trap, "x"),
        lambda: open_archive(tmp_path / "x.zip", "", tmp_path).read("x"),
        lambda: open_archive(tmp_path / "x.tar", "", tmp_path).read("x"),
        lambda: open_archive(tmp_path / "x.tgz", "", tmp_path).read("x"),
    ):
        for suffix in ("zip", "tar", "tgz"):
            (tmp_path / f"x.{suffix}").write_bytes(trap)
        with pytest.raises(UserError, match="x"):
            decode()
    make_voc(tmp_path / "data")
    make_sbd(tmp_path / "data")
    config.data_dir = str(tmp_path / "data")
    for mat in (tmp_path / "data").rglob("*.mat"):
        mat.write_bytes(trap)
    with pytest.raises(UserError, match=r"not a readable \.mat file"):
        open_part("sbd", "train", settings.datasets(config))
    open_part("voc_segmentation", "train", settings.datasets(config))
    for path in (tmp_path / "cache" / "datasets").rglob("*"):
        if path.is_file() and path.parent.parent.name == "voc_segmentation":
            before = path.read_bytes()
            path.write_bytes(trap)
            with contextlib.suppress(Exception):  # of many kinds: the cache is ours
                source = open_part("voc_segmentation", "train", settings.datasets(config))
                list(map(source.__getitem__, range(len(source))))
            path.write_bytes(before)


def test_records_name_no_code(config, tmp_path):
    """tfds imports the module that a features.json names, where it opens records by their folder alone."""
    make_cityscapes(tmp_path)
    config.data_dir = str(tmp_path)
    expected = open_part("cityscapes", "val", settings.datasets(config))[0]["image_id"]
    (path,) = (tmp_path / "cache").rglob("features.json")
    path.write_text(json.dumps({"pythonClassName": "antigravity_of_ours.Feature"}))
    assert open_part("cityscapes", "val", settings.datasets(config))[0]["image_id"] == expected


def test_images_are_decoded_by_no_other_program(monkeypatch, tmp_path):
    """For an EPS file Pillow runs Ghostscript."""
    ghostscript, marker = tmp_path / "gs", tmp_path / "ran"
    ghostscript.write_text(f"#!/bin/sh\ntouch {marker}\n")
    ghostscript.chmod(ghostscript.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg", "EPS")
    data = (tmp_path / "photo.jpg").read_bytes()
    with pytest.raises(UserError, match=r"photo\.jpg: not a readable image file"):
        decode_image(data, "photo.jpg")
    assert not marker.exists()
    with contextlib.suppress(OSError), Image.open(io.BytesIO(data)) as image:
        image.load()
    assert marker.exists(), "the trap must work"


def png_header(width, height):
    """The start of a PNG that claims a size."""
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    data = bytearray(small.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("size", [(2**14, 2**13 + 1), (2**31 - 1, 2**31 - 1), (1, 2**27 + 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # ours is the lower bound
def test_an_image_bomb_is_refused_unread(size, tmp_path):
    assert size[0] * size[1] > MAX_PIXELS
    for decode in (decode_image, lambda data, name: decode_ids(data, name, 2)):
        with pytest.raises(UserError, match=r"bomb\.png"):
            decode(png_header(*size), "bomb.png")
    with pytest.raises(UserError, match="pixels are more than the limit"):
        draw([], *size, "bomb")


def test_a_mask_of_another_size_is_not_drawn():
    """Its run lengths are for the size that it states, which C code allocates."""
    huge = {"size": [2**20, 2**20], "counts": [2**40]}
    instance = {"id": 1, "iscrowd": 0, "area": 1, "class_id": 1, "segmentation": huge}
    label, left_out = draw([instance], 8, 8, "x")
    assert not label.any()
    assert [identity for identity, _ in left_out] == [1]


@pytest.mark.parametrize("bad", ["../stolen", "a/../../stolen", "/etc/stolen"])
def test_no_name_leads_out_of_an_archive_or_a_folder(bad, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(bad))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(bad, "x")
    for files in (open_archive(tmp_path / "x.tar", "", tmp_path), open_archive(tmp_path / "x.zip", "", tmp_path)):
        with pytest.raises(UserError, match=r"refused.*stolen"):
            files.names("")
    (tmp_path / "stolen").write_text("x")
    (tmp_path / "data" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"refused.*outside"):
        Folder(tmp_path / "data").read(bad)


def test_links_in_archives_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("real"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    assert open_archive(tmp_path / "x.tar", "", tmp_path).names("") == ["real"]


def test_predictions_stay_in_their_folder(tmp_path):
    """Names of a data set's images come from its lists."""
    inputs = [predict.Input("../stolen", lambda: np.zeros((8, 8, 3), np.uint8))]
    with pytest.raises(UserError, match=r"'\.\./stolen' would lead out of --output"):
        predict.plan_outputs(inputs, "masks", tmp_path / "out", ["mask"])


def test_names_are_data_in_a_folders_classes_and_lists(config, tmp_path):
    """What is markup elsewhere is a name here; reports escape it (test_report.py)."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    name = MARKUP.replace("/", "")
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"images/{name}{i}.png")
        Image.new("L", (8, 8)).save(tmp_path / f"masks/{name}{i}.png")
    (tmp_path / "classes.txt").write_text(f"ground\n{MARKUP}\n")
    config.data_dir = str(tmp_path)
    labelled = open_folder(settings.datasets(config), "folder")
    assert list(labelled.pairs) == [f"{name}0", f"{name}1"]
    assert labelled.class_lines() == ("ground", MARKUP)


def test_archives_are_read_and_never_unpacked(config, tmp_path):
    make_voc(tmp_path / "data")
    make_sbd(tmp_path / "data")
    (tmp_path / "data/coco/train2017").mkdir(parents=True)
    (tmp_path / "data/coco/annotations").mkdir()
    make_cityscapes(tmp_path / "data")
    pack(tmp_path / "data", tmp_path / "archives")
    before = set((tmp_path / "archives").rglob("*"))
    config.data_dir = str(tmp_path / "archives")
    open_part("sbd", "train", settings.datasets(config))
    assert set((tmp_path / "archives").rglob("*")) == before
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".jpg", ".mat")]
