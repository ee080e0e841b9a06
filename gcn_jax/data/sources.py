"""Opens the data that a config names, as sources: collections of samples with random access.

A config names data by an expression: "a/train+b/train-a/val" is the union of the first two splits without the images of
the third. Two images are the same if they have the same id. An image that several parts hold is taken, with its mask,
from the first of them.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gcn_jax.console import say
from gcn_jax.data import bands, far_ends, shapes
from gcn_jax.data.band_statistics import Moments
from gcn_jax.data.builders.base import SegmentationBuilder
from gcn_jax.data.builders.cityscapes import Cityscapes
from gcn_jax.data.builders.coco import CocoVoc
from gcn_jax.data.builders.voc import Sbd, VocSegmentation
from gcn_jax.data.class_folders import ClassFolders
from gcn_jax.data.coco_folder import CocoFolder
from gcn_jax.data.folder import SPLITS, LabelledFolder
from gcn_jax.data.legend import Legend, parse_classes
from gcn_jax.data.own_folder import FolderSource, OwnFolder
from gcn_jax.data.records import RecordSource
from gcn_jax.data.samples import Selection, Source, Split
from gcn_jax.data.shapes import ShapesSource
from gcn_jax.data.specs import FAR_ENDS, SHAPES, VOID, DatasetSpec
from gcn_jax.errors import UserError

BUILDERS: dict[str, type[SegmentationBuilder]] = {b.name: b for b in (VocSegmentation, Sbd, CocoVoc, Cityscapes)}
FOLDERS: dict[str, Callable[..., OwnFolder]] = {LabelledFolder.name: LabelledFolder, CocoFolder.name: CocoFolder}
DRAWN: dict[str, tuple[DatasetSpec, shapes.Draw]] = {
    "shapes": (SHAPES, shapes.draw),
    "far_ends": (FAR_ENDS, far_ends.draw),
}
_MULTI_LABEL: dict[str, Callable[..., OwnFolder]] = {
    LabelledFolder.name: ClassFolders,
    CocoFolder.name: functools.partial(CocoFolder, multi_label=True),
}
_FOLDERS = " and ".join(FOLDERS)
# The splits of each data set.
KNOWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(DRAWN, tuple(shapes.SPLIT_SIZES)),
    **dict.fromkeys(FOLDERS, SPLITS),
    **{name: builder.SPLITS for name, builder in BUILDERS.items()},
}


@dataclass(frozen=True)
class Datasets:
    """Which data a run uses, and where they are.

    Attributes:
      train: the data to train on, an expression as described above; ``config.data.train``.
      eval: the data to evaluate on, also an expression; ``config.data.eval``.
      classes: the classes of the user's own folder, as the lines of a classes.txt.
      data_dir: where the official files are; empty: they are downloaded.
      cache_dir: for downloads and prepared records.
      seed: for the random split of a folder that holds no lists, and
      held_out: what that was when the run was started, see `gcn_jax.data.splits.draw`.
      multi_label: whether a pixel of the user's own folder may have none, one or several classes.
      first_id: the id of the first class in a folder's masks.
      exif: "apply" or "ignore": whether a photograph's EXIF orientation counts where its mask fits both ways.
      white: the value of white in images of more than 8 bits; 0: what the files state or hold.
      rare_share: the share of training's images that are drawn by the classes they hold, see `gcn_jax.data.sampling`.
      channels: "RGB", "BGR", or the bands to read from the user's own folder, see `gcn_jax.data.bands`.
      depth: the kind of values that bands must have; "": any.
    """

    train: str
    eval: str
    classes: tuple[str, ...]
    data_dir: str
    cache_dir: pathlib.Path
    seed: int
    held_out: tuple[str, ...] = ()
    multi_label: bool = False
    first_id: int = 0
    exif: str = "apply"
    white: int = 0
    rare_share: float = 0.0
    channels: str = "RGB"
    depth: str = ""

    @property
    def bands(self) -> bands.Bands:
        """The bands to read; (): the images are photographs."""
        return bands.parse(self.channels)


class Part(NamedTuple):
    """A term of an expression.

    Attributes:
      is_removed: whether a minus stands before it.
      name: of the data set.
      split: of the data set.
    """

    is_removed: bool
    name: str
    split: str


def parse(key: str, data: Datasets) -> list[Part]:
    """Parses the expression in ``data.train`` or ``data.eval``.

    Args:
      key: "train" or "eval".
      data: that holds the expression.

    Raises:
      UserError: naming the config key and what is wrong with its value.
    """
    text = getattr(data, key)
    parts = []
    for sign, term in re.findall(r"(^|[+-])([^+-]*)", text.replace(" ", "")):
        name, _, split = term.partition("/")
        if split not in KNOWN.get(name, ()):
            known = ", ".join(f"{name}/{split}" for name, splits in KNOWN.items() for split in splits)
            raise UserError(f"config.data.{key}={text!r}: {term!r} is unknown data; known: {known}")
        if name in BUILDERS and not BUILDERS[name].has_truth(split) and sign != "-":
            raise UserError(
                f"config.data.{key}={text!r}: the truth of {term} is not published; to label its images: "
                f"--mode=predict --input={term} --output=FOLDER"
            )
        parts.append(Part(sign == "-", name, split))
    if len({BUILDERS[part.name].SPEC.name if part.name in BUILDERS else part.name for part in parts}) > 1:
        raise UserError(f"config.data.{key}={text!r}: its parts have different classes")
    return parts


def spec_of(name: str, data: Datasets) -> DatasetSpec:
    """The label space of a data set; for a folder, ``data.classes`` tells it."""
    if data.multi_label and name not in FOLDERS:
        raise UserError(
            f"config.data.multi_label=True: the pixels of {name} have one class each; of {_FOLDERS} alone they may "
            f"have several"
        )
    if name in BUILDERS:
        return BUILDERS[name].SPEC
    return DRAWN[name][0] if name in DRAWN else dataclasses.replace(_legend(data).spec, name=name)


def _legend(data: Datasets) -> Legend:
    return parse_classes(data.classes, "config.data.classes", data.first_id, data.multi_label)


def spec_from(data: Datasets) -> DatasetSpec:
    """The label space of the data; raises `UserError` if those for training and evaluation have different ones."""
    train, evaluation = (spec_of(parse(key, data)[0].name, data) for key in ("train", "eval"))
    if train != evaluation:
        raise UserError(
            f"config.data.eval={data.eval!r} has the classes of {evaluation.name}, but "
            f"config.data.train={data.train!r} those of {train.name}"
        )
    return train


def licences(data: Datasets) -> dict[str, str]:
    """What the publishers of the training data say about their use, by the data set; nothing of the user's own."""
    names = sorted({part.name for part in parse("train", data) if not part.is_removed})
    return {name: BUILDERS[name].LICENSE for name in names if name in BUILDERS}


def uses_folder(data: Datasets) -> str:
    """The name of the user's own folder if the data are one, whose classes are known only after looking into it."""
    return next((name for text in (data.train, data.eval) for name in FOLDERS if text.startswith(f"{name}/")), "")


def open_folder(data: Datasets, name: str = "") -> OwnFolder:
    """Opens the user's own folder, `uses_folder` or another; raises `UserError` if it does not hold what it should."""
    kind = (_MULTI_LABEL if data.multi_label else FOLDERS)[name or uses_folder(data)]
    return kind(data.data_dir, data.cache_dir, data.seed, data.held_out, data.bands)


def open_part(name: str, split: str, data: Datasets) -> Split:
    """Opens one split of a data set; prepares its records first if that has not been done."""
    if data.bands and name not in FOLDERS:
        raise UserError(f"config.data.channels={data.channels}: {name} holds RGB; bands are read from {_FOLDERS} alone")
    if name in DRAWN:
        return ShapesSource(split, DRAWN[name][1])
    if name in FOLDERS:
        own = open_folder(data, name)
        legend = dataclasses.replace(_legend(data), origin=own.class_file)
        return FolderSource(own, split, legend, data.exif, data.white, data.depth)
    builder = BUILDERS[name](split, data.data_dir, data.cache_dir)
    builder.prepare()
    return RecordSource(builder)


def open_splits(data: Datasets, keys: Sequence[str] = ("train", "eval")) -> dict[str, Split]:
    """Opens all splits that the expressions name, such as "sbd/train"; prepares their records first if need be."""
    parts = dict.fromkeys((part.name, part.split) for key in keys for part in parse(key, data))
    return {f"{name}/{split}": open_part(name, split, data) for name, split in parts}


def open_source(key: str, data: Datasets, splits: Mapping[str, Split] | None = None) -> Source:
    """Opens the data that an expression names; tells of classes that they do not hold.

    Args:
      key: "train" or "eval".
      data: that holds the expression.
      splits: of `open_splits`, if that was called before.

    Raises:
      UserError: naming the config key or the file, if the data are missing or damaged, or hold nothing to learn.
    """
    splits = splits or open_splits(data, (key,))
    parts = [(part, splits[f"{part.name}/{part.split}"]) for part in parse(key, data)]
    removed = {image_id for part, split in parts if part.is_removed for image_id in split.image_ids}
    added = [(part, split) for part, split in parts if not part.is_removed]
    _check_classes(key, data, added)
    if len(parts) == 1:
        return parts[0][1]
    chosen: dict[str, tuple[int, int]] = {}
    for i, (_, split) in enumerate(added):
        for j, image_id in enumerate(split.image_ids):
            if image_id not in removed:
                chosen.setdefault(image_id, (i, j))
    if not chosen:
        raise UserError(f"config.data.{key}={getattr(data, key)!r}: no image is left")
    return Selection([split for _, split in added], list(chosen.values()))


def _pixels(parts: Sequence[tuple[Part, Split]]) -> np.ndarray:
    return sum((split.pixels() for _, split in parts), np.zeros(256, np.int64))


def trained_pixels(data: Datasets, splits: Mapping[str, Split]) -> np.ndarray:
    """The number of pixels of each label value in the splits that are added up to train on, int64 [256]."""
    parts = [part for part in parse("train", data) if not part.is_removed]
    return _pixels([(part, splits[f"{part.name}/{part.split}"]) for part in parts])


def trained_bands(data: Datasets, splits: Mapping[str, Split]) -> tuple[Moments, str]:
    """Mean and standard deviation of the bands that are trained on, and the kind of their values."""
    names = [f"{part.name}/{part.split}" for part in parse("train", data) if not part.is_removed]
    first, *others = (split for name in names if isinstance(split := splits[name], FolderSource))
    moments = first.band_moments()
    for split in others:
        moments = moments.merge(split.band_moments())
    return moments, first.depth


def _check_classes(key: str, data: Datasets, parts: Sequence[tuple[Part, Split]]) -> None:
    """Tells of classes without a pixel; raises `UserError` if there is only one class to learn."""
    if any(part.name in DRAWN for part, _ in parts):  # drawn with all its classes; to count them takes seconds
        return
    pixels = _pixels(parts)
    names = spec_of(parts[0][0].name, data).class_names
    absent = [name for name, number in zip(names, pixels, strict=False) if not number]
    where = f"config.data.{key}={getattr(data, key)!r}"
    if len(absent) <= len(names) - (1 if data.multi_label else 2):
        if absent:
            say(f"warning: {where}: the masks hold no pixel of {', '.join(absent)}")
        return
    held = next((name for name in names if name not in absent), "no class")
    problem = f"{where}: the masks hold {held} and void alone"
    if data.multi_label:
        problem = f"{where}: the masks hold no pixel of any class"
    elif pixels[VOID] and parts[0][0].name == LabelledFolder.name:
        problem += (
            f"; 255 is void unless classes.txt gives white to a class: write '{names[0]} 0 0 0' and "
            f"'{names[1]} 255 255 255' if 255 is {names[1]}, or save the masks with ids 0, 1, 2, ..."
        )
    if key == "train":
        raise UserError(problem)
    say(f"warning: {problem}")


def open_sources(data: Datasets, splits: Mapping[str, Split] | None = None) -> tuple[Source, Source]:
    """Opens the data to train on and those to evaluate on.

    Args:
      data: that holds the expressions.
      splits: of `open_splits`, if that was called before.

    Raises:
      UserError: as `open_source` does; also if an image to evaluate on is among those to train on.
    """
    splits = splits or open_splits(data)
    train, evaluation = open_source("train", data, splits), open_source("eval", data, splits)
    if data.rare_share:
        train.class_presence()  # now, before training, when all labels are read for it
    shared = sorted(set(train.image_ids) & set(evaluation.image_ids))
    if shared:
        removed = data.eval.replace("+", "-")
        raise UserError(
            f"config.data.train={data.train!r} holds {len(shared)} image(s) of config.data.eval, such as "
            f"{shared[0]}; take them out: --config.data.train={data.train}-{removed}"
        )
    return train, evaluation
