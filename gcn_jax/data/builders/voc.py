"""PASCAL VOC 2012 (Everingham et al., IJCV 2010) and the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011)."""

import abc
import io
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.io

from gcn_jax.data.builders.archives import Files
from gcn_jax.data.builders.base import Example, SegmentationBuilder
from gcn_jax.data.builders.official import Archive, find
from gcn_jax.data.legend import legend_of
from gcn_jax.data.masks import check_label_values, decode_ids
from gcn_jax.data.specs import VOC
from gcn_jax.data.texts import read_lines
from gcn_jax.errors import UserError

TRAINVAL = Archive(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "VOCdevkit/VOC2012",
    "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
# The evaluation server's page asks for a login.
TEST = Archive("VOC2012test.tar", "http://host.robots.ox.ac.uk:8080/eval/challenges/voc2012/", "VOCdevkit/VOC2012")
SBD = Archive(
    "benchmark.tgz",
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
    "benchmark_RELEASE/dataset",
    "md5:82b4d87ceb2ed10f6038a1cba92111cb",
)


_LEGEND = legend_of(VOC)


class _Listed(SegmentationBuilder):
    """A split whose images are listed, by their ids, in a text file."""

    _files: Files
    _list: str

    @abc.abstractmethod
    def members(self, image_id: str) -> tuple[str, str]:
        """The names of an image's file and of its label's file."""

    @abc.abstractmethod
    def decode(self, data: bytes, name: str) -> np.ndarray:
        """Decodes a label file to uint8 [H, W]; name is for messages."""

    def image_ids(self) -> list[str]:
        name = self._files.describe(self._list)
        lines = read_lines(self._files.read(self._list), name, are_names=True)
        return list(dict.fromkeys(_id_of(line.split()[0]) for line in lines if line))

    def stamps(self) -> Iterator[str]:
        def names() -> Iterable[str]:
            yield self._list
            for image_id in self.image_ids():
                yield from self.members(image_id)

        return self._files.stamps(names)

    def read(self, image_id: str) -> Example:
        image, label = self.members(image_id)
        label_name = self._files.describe(label)
        label_ids = self.decode(self._files.read(label), label_name) if self.has_truth(self.split) else None
        return Example(self._files.read(image), label_ids, self._files.describe(image), label_name)

    def describe(self) -> str:
        return self._files.describe(self._list)


def _id_of(path: str) -> str:
    """An image's id in a line of a list, which may be the path of its file."""
    return pathlib.PurePosixPath(path.replace("\\", "/")).name.partition(".")[0]


class VocSegmentation(_Listed):
    """The images (JPEG) and class masks (palette PNG, 0-20, 255 is void) in VOC 2012's segmentation lists."""

    name = "voc_segmentation"
    SPEC = VOC
    SPLITS = ("train", "val", "trainval", "train_aug", "test")  # train_aug: SBD's masks as DeepLab's users keep them
    HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    LICENSE = "The images carry the Flickr terms of use; the annotations are free for research."
    CITATION = "Everingham, M. et al.: The PASCAL Visual Object Classes (VOC) Challenge. IJCV 88(2), 2010."

    def find(self, data_dir: str, downloads: pathlib.Path) -> None:
        archive = TRAINVAL if self.has_truth(self.split) else TEST
        self._list = f"ImageSets/Segmentation/{self.split}.txt"
        if self.split == "train_aug" and not data_dir:
            raise UserError("config.data_dir is empty: voc_segmentation/train_aug cannot be downloaded; take sbd/train")
        self._files = find(archive, ("VOCdevkit/VOC2012", "VOC2012", ""), self._list, data_dir, downloads)

    def members(self, image_id: str) -> tuple[str, str]:
        masks = "SegmentationClassAug" if self.split == "train_aug" else "SegmentationClass"
        return f"JPEGImages/{image_id}.jpg", f"{masks}/{image_id}.png"

    def decode(self, data: bytes, name: str) -> np.ndarray:
        return decode_ids(data, name, self.SPEC.num_classes, _LEGEND)


class Sbd(_Listed):
    """SBD's images (JPEG), which are VOC 2011's, and class masks (.mat, 0-20) of VOC's classes, without void."""

    name = "sbd"
    SPEC = VOC
    SPLITS = ("train", "val")
    HOMEPAGE = "http://home.bharathh.info/pubs/codes/SBD/download.html"
    LICENSE = "The images carry the Flickr terms of use; the annotations are free for research."
    CITATION = "Hariharan, B. et al.: Semantic Contours from Inverse Detectors. ICCV 2011."

    def find(self, data_dir: str, downloads: pathlib.Path) -> None:
        self._list = f"{self.split}.txt"
        self._files = find(SBD, ("benchmark_RELEASE/dataset", "dataset", ""), "cls", data_dir, downloads)

    def members(self, image_id: str) -> tuple[str, str]:
        return f"img/{image_id}.jpg", f"cls/{image_id}.mat"

    def decode(self, data: bytes, name: str) -> np.ndarray:
        try:
            label = scipy.io.loadmat(io.BytesIO(data))["GTcls"]["Segmentation"][0, 0]
            check_label_values(label, name, 256)
            return np.ascontiguousarray(label, np.uint8)
        except UserError:
            raise
        except Exception as error:  # loadmat raises errors of many kinds for damaged files
            raise UserError(f"{name}: not a readable .mat file with GTcls.Segmentation ({error})") from error
