"""Cityscapes (Cordts et al., CVPR 2016), with its fine labels and the coarse labels of its extra images."""

import pathlib
from collections.abc import Iterator
from functools import cached_property

from gcn_jax.data.builders.base import Example, SegmentationBuilder
from gcn_jax.data.builders.official import Archive, find
from gcn_jax.data.masks import decode_ids
from gcn_jax.data.specs import CITYSCAPES, CITYSCAPES_TRAIN_IDS
from gcn_jax.errors import UserError

_PAGE = "https://www.cityscapes-dataset.com/downloads/"  # asks for a login
_ROOTS = ("cityscapes", "")
_IMAGE, _FINE, _COARSE = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtCoarse_labelIds.png"


class Cityscapes(SegmentationBuilder):
    """Street scenes (PNG, 2048x1024) with masks of the 19 evaluated classes; all other labels are void.

    train, val and test have the fine labels, train_extra the coarse ones.
    """

    name = "cityscapes"
    SPEC = CITYSCAPES
    SPLITS = ("train", "val", "test", "train_extra")
    HOMEPAGE = "https://www.cityscapes-dataset.com"
    LICENSE = "Free for non-commercial research and teaching: https://www.cityscapes-dataset.com/license/"
    CITATION = "Cordts, M. et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding. CVPR 2016."

    def find(self, data_dir: str, downloads: pathlib.Path) -> None:
        if self.split == "train_extra":
            images, labels = "leftImg8bit_trainextra.zip", "gtCoarse.zip"
            self._kind, self._suffix = "gtCoarse", _COARSE
        else:
            images, labels = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"
            self._kind, self._suffix = "gtFine", _FINE
        markers = (f"leftImg8bit/{self.split}", f"{self._kind}/{self.split}")
        self._images = find(Archive(images, _PAGE), _ROOTS, markers[0], data_dir, downloads)
        if self.has_truth(self.split):
            self._labels = find(Archive(labels, _PAGE), _ROOTS, markers[1], data_dir, downloads)

    @cached_property
    def _pairs(self) -> dict[str, tuple[str, str]]:
        """For each image id the names of the image file and of its label file."""
        images = _by_id(self._images.names(f"leftImg8bit/{self.split}"), _IMAGE)
        if not self.has_truth(self.split):
            return {image_id: (name, "") for image_id, name in images.items()}
        labels = _by_id(self._labels.names(f"{self._kind}/{self.split}"), self._suffix)
        for image_id in sorted(images.keys() ^ labels.keys()):
            if image_id in images:
                raise UserError(f"{self._images.describe(images[image_id])}: has no {self._kind} label file")
            raise UserError(f"{self._labels.describe(labels[image_id])}: has no image")
        return {image_id: (images[image_id], labels[image_id]) for image_id in images}

    def stamps(self) -> Iterator[str]:
        yield from self._images.stamps(lambda: (image for image, _ in self._pairs.values()))
        if self.has_truth(self.split):
            yield from self._labels.stamps(lambda: (label for _, label in self._pairs.values()))

    def image_ids(self) -> list[str]:
        return list(self._pairs)

    def read(self, image_id: str) -> Example:
        image, label = self._pairs[image_id]
        if not self.has_truth(self.split):
            return Example(self._images.read(image), None, self._images.describe(image), "")
        label_name = self._labels.describe(label)
        label_ids = CITYSCAPES_TRAIN_IDS[decode_ids(self._labels.read(label), label_name, 256)]
        return Example(self._images.read(image), label_ids, self._images.describe(image), label_name)

    def describe(self) -> str:
        return self._images.describe(f"leftImg8bit/{self.split}")


def _by_id(names: list[str], suffix: str) -> dict[str, str]:
    return {name.rsplit("/", 1)[1].removesuffix(suffix): name for name in names if name.endswith(suffix)}
