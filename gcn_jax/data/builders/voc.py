"""PASCAL VOC 2012 semantic segmentation (Everingham et al., IJCV 2010)."""

import io
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from gcn_jax.data.builders.archives import Files, Folder, Tar, download
from gcn_jax.data.images import check_same_size, decode_image, decode_label
from gcn_jax.data.specs import VOC
from gcn_jax.errors import UserError

ARCHIVE = "VOCtrainval_11-May-2012.tar"
URL = f"http://host.robots.ox.ac.uk/pascal/VOC/voc2012/{ARCHIVE}"
SHA256, BYTES = "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb", 1_999_639_040
INNER = "VOCdevkit/VOC2012"


class VocSegmentation(tfds.core.GeneratorBasedBuilder):
    """Images (JPEG) and class masks (palette PNG, 0-20, 255 = void) of VOC 2012's train and val lists."""

    name = "voc_segmentation"
    VERSION = tfds.core.Version("1.0.0")
    SPLITS = ("train", "val")
    SPEC = VOC

    def __init__(self, *, files: Files, **kwargs: Any):
        self._files = files
        super().__init__(**kwargs)

    @staticmethod
    def find(data_dir: str, download_dir: pathlib.Path) -> Files:
        """The official files: unpacked (at any level of their layout) or archived in data_dir, or downloaded.

        Args:
          data_dir: the folder to look in; empty to download the archive (2 GB) into download_dir, unless it is there.
          download_dir: for the downloaded archive.

        Raises:
          UserError: if data_dir holds neither, or the download fails.
        """
        if not data_dir:
            return Tar(download(URL, SHA256, BYTES, download_dir), INNER)
        folder = pathlib.Path(data_dir).expanduser()
        if not folder.is_dir():
            raise UserError(f"config.data_dir={data_dir}: no such folder")
        for root in (folder / INNER, folder / "VOC2012", folder):
            if (root / "ImageSets/Segmentation").is_dir():
                return Folder(root)
        if (folder / ARCHIVE).is_file():
            return Tar(folder / ARCHIVE, INNER)
        raise UserError(
            f"config.data_dir={data_dir}: holds neither {INNER}/ImageSets/Segmentation nor {ARCHIVE}; "
            f"fetch {URL} into it, or leave config.data_dir empty to have it downloaded"
        )

    @staticmethod
    def ids(files: Files, split: str) -> list[str]:
        """The image ids of a split, in the official list's order."""
        return files.read(f"ImageSets/Segmentation/{split}.txt").decode().split()

    @staticmethod
    def members(image_id: str) -> tuple[str, str]:
        """The names of an image's file and its mask's."""
        return f"JPEGImages/{image_id}.jpg", f"SegmentationClass/{image_id}.png"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            license="The images carry the Flickr terms of use; the annotations are free for research.",
            citation="Everingham, M. et al.: The PASCAL Visual Object Classes (VOC) Challenge. IJCV 88(2), 2010.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "image_id": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # the files were found before
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for image_id in self.ids(self._files, split):
            image_name, label_name = self.members(image_id)
            image, label = self._files.read(image_name), self._files.read(label_name)
            label_path = self._files.describe(label_name)
            label_array = decode_label(label, label_path, self.SPEC.num_classes)
            check_same_size(decode_image(image, self._files.describe(image_name)), label_array, label_path)
            yield image_id, {"image": io.BytesIO(image), "label": io.BytesIO(label), "image_id": image_id}
