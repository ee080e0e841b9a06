"""``--mode=predict``: images in; palette PNGs and overlays out, or an archive for an evaluation server."""

import glob
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import ml_collections
import numpy as np

from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.config import settings
from gcn_jax.console import bar, say
from gcn_jax.data import submissions
from gcn_jax.data.image_files import IMAGE_SUFFIXES
from gcn_jax.data.images import read_image
from gcn_jax.data.pictures import overlay, save_picture
from gcn_jax.data.samples import Source
from gcn_jax.data.sources import KNOWN, Datasets, open_part
from gcn_jax.errors import UserError
from gcn_jax.files import write_bytes, written_whole
from gcn_jax.inference.segmenter import make_segmenter


@dataclass(frozen=True)
class Input:
    """An image to label: the name of its outputs, how to read it (as `read_image` does), and its file if it has one."""

    stem: str
    read: Callable[[], tuple[np.ndarray, int]]
    path: pathlib.Path | None = None


def find_inputs(pattern: str, data: Datasets) -> list[Input]:
    """The images that ``--input`` names: a file, a folder's, a glob's matches, sorted; or those of a data set's split.

    Raises:
      UserError: if there is none.
    """
    name, _, split = pattern.partition("/")
    path = pathlib.Path(pattern).expanduser()
    if split in KNOWN.get(name, ()) and not path.exists():
        source = open_part(name, split, data)
        suffix = "_leftImg8bit" if name == "cityscapes" else ""
        return [Input(f"{image_id}{suffix}", partial(_image, source, i)) for i, image_id in enumerate(source.image_ids)]
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    else:
        found = [path] if path.is_file() else [pathlib.Path(p) for p in glob.glob(str(path), recursive=True)]
    images = sorted(p for p in found if p.is_file())
    if not images:
        raise UserError(
            f"--input={pattern}: no image there; name a file, a folder or a glob of images, or a split: cityscapes/test"
        )
    return [Input(image.stem, partial(read_image, image, data.white), image) for image in images]


def _image(source: Source, index: int) -> tuple[np.ndarray, int]:
    return source[index]["image"], 0


def plan_outputs(inputs: list[Input], form: str, folder: pathlib.Path) -> list[list[pathlib.Path]]:
    """Where each image's labels go and, unless they are for a server, its overlay.

    Raises:
      UserError: if two images would share an output, or one would overwrite an image or lie elsewhere.
    """
    masks = submissions.mask_folder(form, folder)
    outputs = [[masks / f"{item.stem}.png"] for item in inputs]
    if form == "masks":
        outputs = [[*paths, masks / f"{item.stem}_overlay.jpg"] for item, paths in zip(inputs, outputs, strict=True)]
    images = {item.path.resolve() for item in inputs if item.path}
    owner: dict[pathlib.Path, Input] = {}
    for item, paths in zip(inputs, outputs, strict=True):
        for path in paths:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"--input: the name {item.stem!r} would lead out of --output={folder}; rename it")
            if path.resolve() in images:
                raise UserError(f"--output={folder}: {path.name} would overwrite an input image; choose another folder")
            if path in owner:
                raise UserError(
                    f"--input: {owner[path].path} and {item.path} would both be written to {path}; rename one"
                )
            owner[path] = item
    return outputs


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, pattern: str, output: pathlib.Path) -> None:
    """Labels every image; one that cannot be read is passed over and named at the end.

    Raises:
      UserError: before any work if the flags are wrong; after it, naming the images that could not be labelled.
    """
    form, spec = config.predict.format, settings.spec_from(config)
    inputs = find_inputs(pattern, settings.datasets(config))
    submissions.check(form, spec, [item.stem for item in inputs])
    outputs = plan_outputs(inputs, form, output)
    step, variables = load_trained(workdir, config.eval.checkpoint)
    trained = make_segmenter(config, variables)
    try:
        for paths in outputs:
            paths[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror})") from error
    say(f"labelling {len(inputs)} images with step {step} of {workdir}")
    bad = []
    with bar("predicting", len(inputs), "image") as progress:
        for item, (mask_path, *overlay_path) in zip(inputs, outputs, strict=True):
            progress.update()
            try:
                image, _ = item.read()
                label = trained.predict(image)
            except UserError as error:
                bad.append(f"{item.path}: {error}" if "config.eval" in str(error) else str(error))
                continue
            write_bytes(mask_path, submissions.encode(form, label, spec))
            for path in overlay_path:
                with written_whole(path) as partial_path:
                    save_picture(overlay(image, label, spec.palette()), partial_path, format="JPEG", quality=92)
    say(f"{len(inputs) - len(bad)} of {len(inputs)} images done: {output}")
    if bad:
        raise UserError(
            f"--input={pattern}: {len(bad)} of {len(inputs)} images could not be labelled: {'; '.join(bad)}"
        )
    if archive := submissions.pack(form, output, [item.stem for item in inputs]):
        say(f"written: {archive}")
