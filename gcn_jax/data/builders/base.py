"""What the tfds builders have in common: each checks one split of a data set and writes it as array_record files."""

import abc
import contextlib
import fcntl
import hashlib
import io
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from gcn_jax.console import bar
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import check_label_values, check_same_size, encode_label
from gcn_jax.data.specs import VOID, DatasetSpec
from gcn_jax.errors import UserError


class Example(NamedTuple):
    """An image and its label.

    Attributes:
      image: the image file's bytes, unchanged.
      label: uint8 [H, W]; None if there is none.
      image_name, label_name: the files they come from, for messages.
    """

    image: bytes
    label: np.ndarray | None
    image_name: str
    label_name: str


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes the records of one split: image file bytes, a palette PNG of class ids (255: void), and the image id.

    A subclass finds and reads the official files. The records' folder is named by a digest of these files' sizes and
    times, so that they are prepared again if a file changes. Records are in the official order. The metadata that tfds
    keeps hold the ids in that order ("image_ids") and the number of pixels of each label value ("pixels").

    Attributes:
      SPEC: the label space.
      SPLITS: the splits' names.
      HOMEPAGE, LICENSE, CITATION: of the data set.
    """

    VERSION = tfds.core.Version("2.0.0")
    SPEC: ClassVar[DatasetSpec]
    SPLITS: ClassVar[tuple[str, ...]]
    HOMEPAGE: ClassVar[str]
    LICENSE: ClassVar[str]
    CITATION: ClassVar[str]

    def __init__(self, split: str, data_dir: str, cache_dir: pathlib.Path):
        """Finds the official files.

        Args:
          split: one of SPLITS.
          data_dir: the folder that holds the official files; empty: they are downloaded.
          cache_dir: for downloads and records.

        Raises:
          UserError: naming what is missing, where to get it and where to put it.
        """
        self.split = split
        self.find(data_dir, cache_dir / "downloads")
        digest = hashlib.sha256(f"{self.name}/{split}".encode())
        for stamp in self.stamps():
            digest.update(f":{stamp}".encode())
        super().__init__(data_dir=cache_dir / "datasets" / digest.hexdigest()[:16], file_format="array_record")

    @abc.abstractmethod
    def find(self, data_dir: str, downloads: pathlib.Path) -> None:
        """Finds the official files without reading them; the arguments are those of `official.find`."""

    @abc.abstractmethod
    def stamps(self) -> Iterator[str]:
        """Yields texts that change when the official files do."""

    @abc.abstractmethod
    def image_ids(self) -> list[str]:
        """The ids of the split's images, in the official order."""

    @abc.abstractmethod
    def read(self, image_id: str) -> Example:
        """Reads an image and its label; called from several threads."""

    @classmethod
    def has_truth(cls, split: str) -> bool:
        """Whether a split's labels are published; if they are not, its records' labels are void everywhere."""
        return split != "test"

    def prepare(self) -> None:
        """Writes the records, with a progress bar, unless they exist.

        Unfinished work of a killed process is removed first. If another process is at it, this waits for its end.

        Raises:
          UserError: naming a bad file.
        """
        tfds.disable_progress_bar()  # our own bar knows the number of images
        folder = pathlib.Path(self.data_dir_root)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "lock").open("wb") as lock, contextlib.redirect_stdout(io.StringIO()):
                fcntl.flock(lock, fcntl.LOCK_EX)
                for unfinished in folder.glob(f"{self.name}/*incomplete*"):
                    shutil.rmtree(unfinished)
                self.download_and_prepare()
        except OSError as error:
            raise UserError(f"config.cache_dir: {folder} cannot be written ({error})") from error

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            citation=self.CITATION,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "image_id": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # the files were found before
        return {self.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        image_ids, pixels = self.image_ids(), np.zeros(256, np.int64)
        if not image_ids:
            raise UserError(f"{self.name}/{self.split}: no image in {self.describe()}")
        threads = os.cpu_count() or 1
        with (
            ThreadPoolExecutor(threads) as pool,
            bar(f"preparing {self.name}/{self.split}", len(image_ids), "image") as progress,
        ):
            rest = iter(image_ids)
            while some := list(itertools.islice(rest, 8 * threads)):  # at most so many are in memory
                for image_id, (example, counts) in zip(some, pool.map(self._checked, some), strict=True):
                    pixels += counts
                    yield image_id, {**example, "image_id": image_id}
                    progress.update()
        self.info.metadata.update(image_ids=image_ids, pixels=pixels.tolist())

    def _checked(self, image_id: str) -> tuple[dict[str, Any], np.ndarray]:
        image, label, image_name, label_name = self.read(image_id)
        pixels = decode_image(image, image_name)
        if label is None:
            label = np.full(pixels.shape[:2], VOID, np.uint8)
        check_label_values(label, label_name, self.SPEC.num_classes)
        check_same_size(pixels, label, label_name)
        png = encode_label(label, self.SPEC.palette())
        example = {"image": io.BytesIO(image), "label": io.BytesIO(png)}
        return example, np.bincount(label.reshape(-1), minlength=256)

    @abc.abstractmethod
    def describe(self) -> str:
        """Where the list of images comes from, for messages."""
