"""``--mode=predict``: images in; masks, overlays, confidence and polygons out, or an archive for a server."""

import collections
import contextlib
import glob
import itertools
import pathlib
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ml_collections
import numpy as np

from gcn_jax.checkpoints import temperature
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.config import settings
from gcn_jax.console import bar, say
from gcn_jax.data import bands, outputs, rasters, submissions
from gcn_jax.data.builders.archives import is_junk
from gcn_jax.data.coco_writer import annotations_file
from gcn_jax.data.pictures import MAX_JPEG_SIDE, overlay, save_picture
from gcn_jax.data.samples import Source
from gcn_jax.data.sources import KNOWN, Datasets, open_part
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.errors import UserError
from gcn_jax.files import make_folder, write_bytes, written_whole
from gcn_jax.inference.maps import Maps, stacked
from gcn_jax.inference.segmenter import Segmenter, make_segmenter
from gcn_jax.modes.predict_rasters import PREVIEW, check_outputs, label_raster

_PREVIEW = f"no side of an overlay is above {PREVIEW} pixels"


@dataclass(frozen=True)
class Input:
    """An image to label: the name of its outputs, how to read it (as `bands.read` does), and its file if it has one.

    A raster keeps its georeference, and is read in windows: see `rasters.is_raster`.
    """

    stem: str
    read: Callable[[], tuple[np.ndarray, int]]
    path: pathlib.Path | None = None
    is_raster: bool = False


def find_inputs(pattern: str, data: Datasets) -> list[Input]:
    """The images that ``--input`` names: a file, a folder's, a glob's matches, sorted; or those of a data set's split.

    Says what it skips. A file that is named is taken, whatever its name.

    Raises:
      UserError: if there is none, or the folder cannot be read.
    """
    name, _, split = pattern.partition("/")
    path = pathlib.Path(pattern).expanduser()
    if split in KNOWN.get(name, ()) and not path.exists():
        source = open_part(name, split, data)
        suffix = "_leftImg8bit" if name == "cityscapes" else ""
        return [Input(f"{image_id}{suffix}", partial(_image, source, i)) for i, image_id in enumerate(source.image_ids)]
    try:
        images, skipped = _find(path, bands.suffixes(data.bands))
    except OSError as error:
        raise UserError(f"--input={pattern}: cannot be read ({error.strerror})") from error
    if not images:
        raise UserError(
            f"--input={pattern}: no image there; {f'{skipped}; ' if skipped else ''}name a file, a folder or a glob of "
            f"images, or a split: cityscapes/test"
        )
    if skipped:
        say(skipped)
    if lost := [image for image in images if rasters.loses_georeference(image)]:
        say(f"{lost[0]}: its georeference is not kept, in {len(lost)} of the images; to keep it: {rasters.HINT}")
    return [Input(image.stem, partial(_read, image, data), image, rasters.is_raster(image)) for image in images]


def _read(path: pathlib.Path, data: Datasets) -> tuple[np.ndarray, int]:
    """What `bands.read` returns; raises `UserError` for bands of another kind than the model's, too."""
    image, white = bands.read(path, data.bands, data.white)
    bands.check_kind(image, data.depth, str(path))
    return image, white


def _image(source: Source, index: int) -> tuple[np.ndarray, int]:
    return source[index]["image"], 0


def _find(path: pathlib.Path, known: Collection[str]) -> tuple[list[pathlib.Path], str]:
    """The images of a file, a folder or a glob, sorted, and a line of what is skipped."""
    if path.is_file():
        return [path], ""
    suffixes = set(known)
    if path.is_dir():
        root, found = path, list(path.iterdir())
    else:
        root = pathlib.Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = [file for file in map(pathlib.Path, glob.glob(str(path), recursive=True)) if not file.is_dir()]
        if not glob.has_magic(path.suffix):  # such as *.gif, of somebody who knows what is in there
            suffixes.add(path.suffix.lower())
    kinds = {file: _kind(file, root) for file in sorted(found)}
    images = [file for file, kind in kinds.items() if kind in suffixes]
    return images, _skipped(collections.Counter(kind for kind in kinds.values() if kind not in suffixes), root)


def _kind(file: pathlib.Path, root: pathlib.Path) -> str:
    """A file's suffix, such as ".jpg", or what else it is: "hidden file", "folder"."""
    is_hidden = is_junk(file.relative_to(root))
    if file.is_dir():
        return "hidden folder" if is_hidden else "folder"
    if not file.is_file():
        return "broken link"
    return "hidden file" if is_hidden else file.suffix.lower() or "file without a suffix"


def _skipped(counts: collections.Counter[str], root: pathlib.Path) -> str:
    if not counts:
        return ""
    plural = {kind: kind if kind[0] == "." else re.sub("(file|folder|link)", r"\1s", kind) for kind in counts}
    texts = [f"{count} {plural[kind] if count > 1 else kind}" for kind, count in counts.most_common()]
    advice = f"; to search folders, too: --input='{glob.escape(str(root))}/**'" if counts["folder"] else ""
    return f"skipped: {', '.join(texts)}{advice}"


def plan_outputs(
    inputs: list[Input], form: str, folder: pathlib.Path, names: Sequence[str], classes: Sequence[str] = ()
) -> list[dict[str, pathlib.Path]]:
    """Where each image's outputs go, by their names; for a server these are masks alone. For classes see `endings`.

    Raises:
      UserError: if two images would share an output, or one would overwrite an image or lie elsewhere.
    """
    masks = submissions.mask_folder(form, folder)
    wanted = names if form == "masks" else ["mask"]
    planned = [
        {name: masks / f"{item.stem}{end}" for name, end in outputs.endings(wanted, item.is_raster, classes).items()}
        for item in inputs
    ]
    images = {item.path.resolve() for item in inputs if item.path}
    owner: dict[pathlib.Path, Input] = {}

    def claim(path: pathlib.Path, item: Input) -> None:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--input: the name {item.stem!r} would lead out of --output={folder}; rename it")
        if path.resolve() in images:
            raise UserError(f"--output={folder}: {path.name} would overwrite an input image; choose another folder")
        if path in owner:
            raise UserError(f"--input: {owner[path].path} and {item.path} would both be written to {path}; rename one")

    for item, paths in zip(inputs, planned, strict=True):
        for path in paths.values():
            claim(path, item)
            owner[path] = item
    if "overlay" in wanted:
        for item, paths in zip(inputs, planned, strict=True):
            path = _as_png(paths["overlay"])
            if (path in owner or path.resolve() in images) and _is_beyond_jpeg(item):
                claim(path, item)
    return planned


def check_annotations(inputs: list[Input], folder: pathlib.Path) -> pathlib.Path:
    """Where the polygons go; raises `UserError` if a file is there, or if an input has no file that they could name."""
    path = folder / outputs.ANNOTATIONS
    if path.exists():
        raise UserError(f"--output={folder}: {path.name} exists already; choose another folder, or delete it")
    if not all(item.path for item in inputs):
        raise UserError(
            "config.predict.outputs: polygons go with the names of images' files, which a data set's split has not; "
            "leave them out, or name a folder of images: --input=FOLDER"
        )
    return path


def _as_png(overlay_path: pathlib.Path) -> pathlib.Path:
    """Where an overlay goes that JPEG cannot hold."""
    return overlay_path.with_suffix(".png")


def _is_beyond_jpeg(item: Input) -> bool:
    try:
        return not item.is_raster and max(item.read()[0].shape) > MAX_JPEG_SIDE
    except UserError:  # of which the end tells
        return False


def _save_overlay(picture: np.ndarray, path: pathlib.Path) -> pathlib.Path:
    """Writes an overlay as JPEG, or as PNG if JPEG cannot hold it; returns where it is."""
    options: dict[str, Any] = {"format": "JPEG", "quality": 92}
    if max(picture.shape) > MAX_JPEG_SIDE:
        path, options = _as_png(path), {"format": "PNG"}
    with written_whole(path) as partial_path:
        save_picture(picture, partial_path, **options)
    return path


def _apply(segmenter: Segmenter, image: np.ndarray, names: Sequence[str], paths: dict[str, pathlib.Path]) -> Maps:
    """The maps of which an image's outputs are made; the probabilities go to their file, part by part."""
    parts, classes = [], segmenter.spec.class_names
    with contextlib.ExitStack() as stack:
        if "probabilities" in paths:
            shape = (*image.shape[:2], len(classes))
            write = stack.enter_context(outputs.probabilities_file(paths["probabilities"], shape, classes))
        for maps in segmenter.rows(image, outputs.maps(names, segmenter.spec.multi_label)):
            if "probabilities" in paths:
                write(maps["probabilities"] if "polygons" in names else maps.pop("probabilities"))
            parts.append(maps)
    return stacked(parts)


def _write(config: ml_collections.ConfigDict, spec: DatasetSpec, maps: Maps, paths: dict[str, pathlib.Path]) -> None:
    """Writes an image's mask and grey pictures, as far as they are wanted."""
    if "mask" in paths:
        write_bytes(paths["mask"], submissions.encode(config.predict.format, maps["labels"], spec))
    for name, path in paths.items():
        if name in outputs.GREY:
            write_bytes(path, outputs.encode_grey(maps[name], config.predict.bits))
        elif name.startswith("mask/"):
            write_bytes(path, outputs.encode_grey(maps["labels"][..., int(name.removeprefix("mask/"))], 8))


def _label(
    config: ml_collections.ConfigDict,
    trained: Segmenter,
    item: Input,
    paths: dict[str, pathlib.Path],
    annotate: Callable[[str, np.ndarray, np.ndarray], object] | None,
) -> tuple[np.ndarray | None, int]:
    """Labels an image and writes its outputs but the overlay: returns that if it is wanted, and the image's white."""
    if item.path and item.is_raster:
        return label_raster(trained, item.path, settings.datasets(config), paths, config.predict.bits)
    image, white = item.read()
    maps = _apply(trained, image, outputs.parse(config.predict.outputs), paths)
    _write(config, trained.spec, maps, paths)
    if annotate and item.path:
        annotate(item.path.name, maps["labels"], maps["probabilities" if trained.spec.multi_label else "confidence"])
    return overlay(image, maps["labels"], trained.spec.palette()) if "overlay" in paths else None, white


def run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, patterns: Sequence[str], output: pathlib.Path
) -> None:
    """Labels every image; one that cannot be read is passed over and named at the end.

    Raises:
      UserError: before any work if the flags are wrong; after it, naming the images that could not be labelled.
    """
    form, names, spec = config.predict.format, outputs.parse(config.predict.outputs), settings.spec_from(config)
    data = settings.datasets(config)
    found = {item.path or item.stem: item for pattern in patterns for item in find_inputs(pattern, data)}
    inputs = [replace(item, is_raster=item.is_raster and form == "masks") for item in found.values()]
    check_outputs([item.path for item in inputs if item.path and item.is_raster], names)
    submissions.check(form, spec, [item.stem for item in inputs])
    planned = plan_outputs(inputs, form, output, names, spec.class_names if spec.multi_label else ())
    annotations = check_annotations(inputs, output) if "polygons" in names else None
    for folder in {submissions.mask_folder(form, output), *(p.parent for paths in planned for p in paths.values())}:
        make_folder(f"--output={output}", folder)
    step, variables = load_trained(workdir, config.eval.checkpoint)
    trained = make_segmenter(temperature.settled(config, workdir, step), variables)
    say(f"labelling {len(inputs)} images with step {step} of {workdir}")
    whose = "config.data.white" if config.data.white else "each image's own; config.data.white sets that of all"
    bad: list[str] = []
    told: set[str] = set()
    with bar("predicting", len(inputs), "image") as progress, contextlib.ExitStack() as stack:
        annotate = stack.enter_context(annotations_file(annotations, spec.class_names)) if annotations else None

        def tell_once(kind: str, text: str) -> None:
            if kind not in told:
                told.add(kind)
                progress.write(text, file=sys.stderr)

        for item, paths in zip(inputs, planned, strict=True):
            progress.update()
            try:
                picture, white = _label(config, trained, item, paths, annotate)
            except UserError as error:
                bad.append(f"{item.path}: {error}" if "config.eval" in str(error) else str(error))
                continue
            if white:
                about = f"more than 8 bits a channel; 0-{white} is scaled to 0-255 (white is {whose})"
                tell_once("white", f"{item.path}: {about}")
            if item.is_raster:
                tell_once("raster", f"{item.path}: its outputs have its georeference; {_PREVIEW}")
            if picture is not None:
                written = _save_overlay(picture, paths["overlay"])
                if written != paths["overlay"]:
                    tell_once("png", f"{written}: a PNG, as a JPEG has sides of at most {MAX_JPEG_SIDE:,} pixels")
    say(f"{len(inputs) - len(bad)} of {len(inputs)} images done: {output}")
    if bad:
        raise UserError(
            f"--input={', '.join(patterns)}: {len(bad)} of {len(inputs)} images could not be labelled: {'; '.join(bad)}"
        )
    if archive := submissions.pack(form, output, [item.stem for item in inputs]):
        say(f"written: {archive}")
