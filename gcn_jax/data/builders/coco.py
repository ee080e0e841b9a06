"""COCO (Lin et al., ECCV 2014), with its outlines drawn as masks of VOC's classes."""

import pathlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from gcn_jax.console import say
from gcn_jax.data import coco_file
from gcn_jax.data.builders.base import Example, SegmentationBuilder
from gcn_jax.data.builders.official import Archive, find
from gcn_jax.data.images import decode_image
from gcn_jax.data.outlines import LeftOut, draw, report
from gcn_jax.data.specs import COCO_TO_VOC, VOC
from gcn_jax.errors import UserError

_SERVER = "http://images.cocodataset.org"
# As published beside tensorflow-datasets' own COCO builders.
_CHECKSUMS = {
    "train2017": "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    "val2017": "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    "annotations_trainval2017": "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
}
_ROOTS = ("coco", "")


class CocoVoc(SegmentationBuilder):
    """The COCO images that hold an object of VOC's 20 classes, with masks drawn from the instances' outlines.

    Where instances overlap, the smaller one (by the area that COCO states) is on top. A crowd region is void where no
    single instance covers it. Objects of COCO's other classes are background. Unlike in VOC, outlines are not void.
    If the files of both 2014 and 2017 exist, those of 2017 are used.
    """

    name = "coco_voc"
    SPEC = VOC
    SPLITS = ("train", "val")
    HOMEPAGE = "https://cocodataset.org"
    LICENSE = "The images carry the Flickr terms of use; the annotations are under CC BY 4.0."
    CITATION = "Lin, T.-Y. et al.: Microsoft COCO: Common Objects in Context. ECCV 2014."

    def find(self, data_dir: str, downloads: pathlib.Path) -> None:
        def files(year: int) -> None:
            images, annotations = f"{self.split}{year}", f"annotations_trainval{year}"
            self._json, self._folder = f"annotations/instances_{images}.json", images
            archives = {
                name: Archive(f"{name}.zip", f"{_SERVER}/{folder}/{name}.zip", checksum=_CHECKSUMS.get(name, ""))
                for name, folder in ((images, "zips"), (annotations, "annotations"))
            }
            self._annotations = find(archives[annotations], _ROOTS, self._json, data_dir, downloads)
            self._images = find(archives[images], _ROOTS, images, data_dir, downloads)

        try:
            files(2017)
        except UserError as error:
            try:
                files(2014)
            except UserError:
                raise error from None

    def stamps(self) -> Iterator[str]:
        # The images' names are known only after all annotations have been read, which takes long. They are not needed:
        # COCO's image files never change.
        yield from self._annotations.stamps(lambda: [self._json])
        yield self._images.describe(self._folder)

    @cached_property
    def _content(self) -> coco_file.CocoFile:
        return coco_file.read(self._annotations.read(self._json), self.describe())

    @cached_property
    def _instances(self) -> dict[str, tuple[coco_file.CocoImage, list[dict[str, Any]]]]:
        """For each image's name its record and the annotations of VOC's classes, with their "class_id"."""
        class_ids = {
            key: VOC.class_names.index(COCO_TO_VOC.get(name, name))
            for key, name in self._content.categories.items()
            if COCO_TO_VOC.get(name, name) in VOC.class_names
        }
        found = {}
        for key, image in self._content.images.items():
            ours = [
                {**annotation, "class_id": class_ids[annotation["category_id"]]}
                for annotation in self._content.annotations[key]
                if annotation["category_id"] in class_ids
            ]
            if ours:
                found[f"{key:012d}" if isinstance(key, int) else key] = image, ours
        return found

    def image_ids(self) -> list[str]:
        return list(self._instances)

    def read(self, image_id: str) -> Example:
        record, annotations = self._instances[image_id]
        path = f"{self._folder}/{record.file_name.rpartition('/')[2]}"
        image, image_name = self._images.read(path), self._images.describe(path)
        label_name = f"{self.describe()}, image {image_id}"
        height, width = record.height, record.width
        if not height or not width:
            height, width = decode_image(image, image_name).shape[:2]
        label, self._left_out[image_id] = draw(annotations, height, width, label_name)
        return Example(image, label, image_name, label_name)

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        self._left_out: dict[str, list[LeftOut]] = {}
        yield from super()._generate_examples()
        left_out = [*self._content.left_out, *(one for key in self._instances for one in self._left_out[key])]
        total = len(self._content.left_out) + sum(len(annotations) for _, annotations in self._instances.values())
        if line := report(left_out, total, self.describe()):
            say(line)

    def describe(self) -> str:
        return self._annotations.describe(self._json)
