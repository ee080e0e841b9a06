"""Prepared records as a source."""

import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gcn_jax.console import bar
from gcn_jax.data.builders.base import SegmentationBuilder
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import decode_own_label
from gcn_jax.data.samples import Sample
from gcn_jax.errors import UserError
from gcn_jax.files import write_bytes

_PRESENCE = "class_presence.bin"  # a bit for each label value of each image


class RecordSource:
    """Prepared records, decoded as they are read."""

    def __init__(self, builder: SegmentationBuilder):
        """Opens the records that a builder has prepared.

        It needs the builder. With only the records' directory, tfds would import any module that a file in it names.
        """
        skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
        self._records: Any = builder.as_data_source(split=builder.split, decoders=skip)
        self._directory, self._name = builder.data_dir, f"{builder.name}/{builder.split}"
        self.image_ids: Sequence[str] = builder.info.metadata["image_ids"]
        self._pixels = builder.info.metadata["pixels"]

    def pixels(self) -> np.ndarray:
        return np.array(self._pixels)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> Sample:
        record, name = self._record(int(index))
        return {
            "image": decode_image(record["image"], f"image of {name}"),
            "label": decode_own_label(record["label"], f"label of {name}"),
            "image_id": self.image_ids[int(index)],
        }

    def _record(self, index: int) -> tuple[dict[str, bytes], str]:
        """The bytes of a record, and its name for messages."""
        image_id = self.image_ids[index]
        name = f"record {image_id} of {self._name}"
        try:
            record = self._records[index]
            is_whole = record["image_id"].decode() == image_id
        except Exception as error:  # damaged bytes make the readers raise many kinds
            raise UserError(f"{name}: damaged; delete {self._directory} to have it prepared again ({error})") from error
        if not is_whole:
            raise UserError(f"{name}: damaged; delete {self._directory} to have it prepared again")
        return record, name

    def class_presence(self) -> np.ndarray:
        """As `Source` says; all labels are read, with a progress bar, and what is found is kept beside the records.

        Raises:
          UserError: naming a damaged record or file.
        """
        path = pathlib.Path(self._directory) / _PRESENCE
        if not path.is_file():
            found = np.zeros((len(self), 256), bool)
            with (
                ThreadPoolExecutor(os.cpu_count()) as pool,
                bar(f"searching {self._name}", len(self), "mask") as progress,
            ):
                for row, held in zip(found, pool.map(self._held, range(len(self))), strict=True):
                    row[:] = held
                    progress.update()
            try:
                write_bytes(path, np.packbits(found, axis=1).tobytes())
            except OSError as error:
                raise UserError(f"config.cache_dir: {path} cannot be written ({error.strerror})") from error
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if data.size != 32 * len(self):
            raise UserError(f"{path}: damaged; delete it")
        return np.unpackbits(data.reshape(-1, 32), axis=1).astype(bool)

    def _held(self, index: int) -> np.ndarray:
        record, name = self._record(index)
        label = decode_own_label(record["label"], f"label of {name}")
        return np.bincount(label.reshape(-1), minlength=256) > 0
