"""``--mode=predict``: images in, palette PNGs and overlays out."""

import glob
import pathlib

import ml_collections

from gcn_jax import config as config_lib
from gcn_jax.data.images import IMAGE_SUFFIXES, encode_label, read_image
from gcn_jax.errors import UserError
from gcn_jax.inference import load
from gcn_jax.logs import say
from gcn_jax.pictures import overlay, save_picture
from gcn_jax.progress import bar


def find_images(pattern: str) -> list[pathlib.Path]:
    """The image files that ``--input`` names: a file, a folder's images, or a glob's matches; sorted.

    Raises:
      UserError: if there is none.
    """
    path = pathlib.Path(pattern)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    else:
        found = [path] if path.is_file() else [pathlib.Path(p) for p in glob.glob(pattern, recursive=True)]
    images = sorted(p for p in found if p.is_file())
    if not images:
        raise UserError(f"--input={pattern}: no image there (a file, a folder or a glob of images)")
    return images


def plan_outputs(
    images: list[pathlib.Path], folder: pathlib.Path
) -> dict[pathlib.Path, tuple[pathlib.Path, pathlib.Path]]:
    """Where each image's labels and overlay go: ``<stem>.png`` and ``<stem>_overlay.jpg``.

    Raises:
      UserError: if two images would share an output, or an output would overwrite an image.
    """
    outputs = {image: (folder / f"{image.stem}.png", folder / f"{image.stem}_overlay.jpg") for image in images}
    inputs = {image.resolve() for image in images}
    owner: dict[pathlib.Path, pathlib.Path] = {}
    for image, paths in outputs.items():
        for path in paths:
            if path.resolve() in inputs:
                raise UserError(f"--output={folder}: {path.name} would overwrite an input image; choose another folder")
            if path in owner:
                raise UserError(f"--input: {owner[path]} and {image} would both be written to {path}; rename one")
            owner[path] = image
    return outputs


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, pattern: str, folder: pathlib.Path) -> None:
    """Labels every image; one that cannot be read is passed over and named at the end.

    Raises:
      UserError: before any work if the flags are wrong; after it, naming the images that could not be read.
    """
    outputs = plan_outputs(find_images(pattern), folder)
    config_lib.check_same_model(config, workdir, "--workdir", "predict with the config it was trained with")
    segmenter = load(workdir, config.eval.checkpoint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={folder}: cannot be written ({error.strerror})") from error
    palette = segmenter.spec.palette()
    bad = []
    with bar("predicting", len(outputs), "image") as progress:
        for image_path, (label_path, overlay_path) in outputs.items():
            progress.update()
            try:
                image = read_image(image_path)
            except UserError as error:
                bad.append(str(error))
                continue
            label = segmenter.predict(image)
            label_path.write_bytes(encode_label(label, palette))
            save_picture(overlay(image, label, palette), overlay_path, quality=92)
    say(f"{len(outputs) - len(bad)} of {len(outputs)} images done: {folder}")
    if bad:
        raise UserError(f"--input={pattern}: {len(bad)} of {len(outputs)} images could not be read: {'; '.join(bad)}")
