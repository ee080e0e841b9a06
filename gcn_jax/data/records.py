"""Prepared records as a source."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from gcn_jax.data.builders.base import SegmentationBuilder
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import decode_own_label
from gcn_jax.data.samples import Sample
from gcn_jax.errors import UserError


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
        image_id = self.image_ids[int(index)]
        name = f"record {image_id} of {self._name}"
        try:
            record = self._records[int(index)]
            is_whole = record["image_id"].decode() == image_id
        except Exception as error:  # damaged bytes make the readers raise many kinds
            raise UserError(f"{name}: damaged; delete {self._directory} to have it prepared again ({error})") from error
        if not is_whole:
            raise UserError(f"{name}: damaged; delete {self._directory} to have it prepared again")
        return {
            "image": decode_image(record["image"], f"image of {name}"),
            "label": decode_own_label(record["label"], f"label of {name}"),
            "image_id": image_id,
        }
