"""Sources: random access to the samples of a split, by name.

A sample is ``{"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W], "image_id": str}``.
"""

import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Protocol, TypedDict

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from gcn_jax.data import shapes
from gcn_jax.data.builders.voc import VocSegmentation
from gcn_jax.data.images import decode_image, decode_label
from gcn_jax.data.specs import SHAPES, DatasetSpec
from gcn_jax.errors import UserError

BUILDERS = {VocSegmentation.name: VocSegmentation}
# Name -> label space and splits.
KNOWN: dict[str, tuple[DatasetSpec, tuple[str, ...]]] = {
    "shapes": (SHAPES, tuple(shapes.SPLIT_SIZES)),
    **{name: (builder.SPEC, builder.SPLITS) for name, builder in BUILDERS.items()},
}


class Sample(TypedDict):
    """One image and its truth."""

    image: np.ndarray
    label: np.ndarray
    image_id: str


class Source(Protocol):
    """A finite random-access collection of samples; what grain reads from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class ShapesSource:
    """The procedural `shapes` data set."""

    def __init__(self, split: str):
        self._split = split

    def __len__(self) -> int:
        return shapes.SPLIT_SIZES[self._split]

    def __getitem__(self, index: int, /) -> Sample:
        image, label = shapes.draw(self._split, int(index))
        return {"image": image, "label": label, "image_id": f"{self._split}_{index:06d}"}


class RecordSource:
    """Prepared records, decoded as they are read."""

    def __init__(self, records: Sequence[dict[str, bytes]], name: str, spec: DatasetSpec):
        self._records, self._name, self._num_classes = records, name, spec.num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int, /) -> Sample:
        record = self._records[int(index)]
        image_id = record["image_id"].decode()
        name = f"record {image_id} of {self._name}"
        return {
            "image": decode_image(record["image"], f"image of {name}"),
            "label": decode_label(record["label"], f"label of {name}", self._num_classes),
            "image_id": image_id,
        }


def split_name(key: str, config: ml_collections.ConfigDict) -> tuple[str, str]:
    """Parses ``config.data[key]``, "data set/split"; raises `UserError` naming the key if there is none such."""
    value = config.data[key]
    name, _, split = value.partition("/")
    if name not in KNOWN or split not in KNOWN[name][1]:
        known = ", ".join(f"{n}/{s}" for n, (_, splits) in KNOWN.items() for s in splits)
        raise UserError(f"config.data.{key}={value!r}: unknown data; known: {known}")
    return name, split


def spec_from(config: ml_collections.ConfigDict) -> DatasetSpec:
    """The label space of a config's data; raises `UserError` if training and evaluation data have different ones."""
    train, evaluation = (KNOWN[split_name(key, config)[0]][0] for key in ("train", "eval"))
    if train != evaluation:
        raise UserError(
            f"config.data.eval={config.data.eval!r} has the classes of {evaluation.name}, but "
            f"config.data.train={config.data.train!r} those of {train.name}"
        )
    return train


def open_source(key: str, config: ml_collections.ConfigDict) -> Source:
    """Opens the data that a config key names, preparing it first where needed.

    Args:
      key: "train" or "eval", of ``config.data``.
      config: for ``data_dir``, where the official files are, and ``cache_dir``, where prepared records are kept.

    Raises:
      UserError: naming the key or file, if the data are missing or damaged.
    """
    name, split = split_name(key, config)
    if name == "shapes":
        return ShapesSource(split)
    builder = prepare(BUILDERS[name], config)
    skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    records: Any = builder.as_data_source(split=split, decoders=skip)
    return RecordSource(records, config.data[key], builder.SPEC)


def prepare(builder_class: type[VocSegmentation], config: ml_collections.ConfigDict) -> VocSegmentation:
    """Builds a data set's records unless they are there; a change of any of its files makes them anew."""
    cache = pathlib.Path(config.cache_dir).expanduser()
    files = builder_class.find(config.data_dir, cache / "downloads")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    digest = hashlib.sha256()
    for split in builder_class.SPLITS:
        for image_id in builder_class.ids(files, split):
            stamps = (files.stamp(member) for member in builder_class.members(image_id))
            digest.update(":".join((split, image_id, *stamps, "")).encode())
    try:
        builder = builder_class(
            files=files, data_dir=cache / "datasets" / digest.hexdigest()[:16], file_format="array_record"
        )
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(f"config.cache_dir={config.cache_dir}: cannot be written ({error})") from error
    return builder
