"""COCO (Lin et al., ECCV 2014), with its outlines drawn as masks of VOC's classes."""

import collections
import json
import pathlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gcn_jax.data.builders.base import Example, SegmentationBuilder
from gcn_jax.data.builders.official import Archive, find
from gcn_jax.data.images import MAX_PIXELS
from gcn_jax.data.specs import COCO_TO_VOC, VOC, VOID
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
    def _instances(self) -> dict[str, dict[str, Any]]:
        """For each image id COCO's record of the image; its "instances" are the annotations of VOC's classes."""
        name = self._annotations.describe(self._json)
        try:
            content = json.loads(self._annotations.read(self._json))
            names = {category["id"]: category["name"] for category in content["categories"]}
            class_ids = {
                name: VOC.class_names.index(COCO_TO_VOC.get(name, name))
                for name in names.values()
                if COCO_TO_VOC.get(name, name) in VOC.class_names
            }
            instances = collections.defaultdict(list)
            for annotation in content["annotations"]:
                class_id = class_ids.get(names[annotation["category_id"]])
                if class_id is not None:
                    instances[annotation["image_id"]].append({**annotation, "class_id": class_id})
            return {
                f"{image['id']:012d}": {**image, "instances": instances[image["id"]]}
                for image in content["images"]
                if image["id"] in instances
            }
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name}: not a COCO instances file ({type(error).__name__}: {error})") from error

    def image_ids(self) -> list[str]:
        return list(self._instances)

    def read(self, image_id: str) -> Example:
        record = self._instances[image_id]
        image = f"{self._folder}/{record['file_name']}"
        label_name = f"{self._annotations.describe(self._json)}, image {image_id}"
        label = draw(record["instances"], record["height"], record["width"], label_name)
        return Example(self._images.read(image), label, self._images.describe(image), label_name)

    def describe(self) -> str:
        return self._annotations.describe(self._json)


def draw(instances: list[dict[str, Any]], height: int, width: int, name: str) -> np.ndarray:
    """Draws COCO annotations as a mask, larger ones first.

    Args:
      instances: annotations as COCO has them, each with our "class_id" added.
      height: of the image, pixels.
      width: of the image, pixels.
      name: of the image, for messages.

    Returns:
      uint8 [height, width], class ids; 0 is background, 255 void.

    Raises:
      UserError: naming an annotation that cannot be drawn.
    """
    if height * width > MAX_PIXELS:
        raise UserError(f"{name}: {width}x{height} pixels are more than the limit of {MAX_PIXELS}")
    label = np.zeros((height, width), np.uint8)
    for instance in sorted(instances, key=lambda i: (not i["iscrowd"], -i["area"], i["id"])):
        try:
            outline = instance["segmentation"]
            if isinstance(outline, list) or isinstance(outline["counts"], list):  # polygons, or plain run lengths
                outline = coco_mask.frPyObjects(outline, height, width)
            if isinstance(outline, list):
                outline = coco_mask.merge(outline)
            if list(outline["size"]) != [height, width]:
                raise ValueError(f"its size is {outline['size']}, not that of the image")
            inside = coco_mask.decode(outline).astype(bool)
            label[inside] = VOID if instance["iscrowd"] else instance["class_id"]
        except Exception as error:  # the library raises plain Exceptions
            raise UserError(f"{name}: annotation {instance['id']} cannot be drawn ({error})") from error
    return label
