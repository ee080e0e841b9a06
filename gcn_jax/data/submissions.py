"""The files that ``--mode=predict`` writes: masks to look at, or archives for the evaluation servers."""

import io
import pathlib
import re
import tarfile
import zipfile

import numpy as np
from PIL import Image

from gcn_jax.data.masks import encode_label
from gcn_jax.data.specs import CITYSCAPES, CITYSCAPES_RAW_IDS, VOC, DatasetSpec
from gcn_jax.errors import UserError
from gcn_jax.files import written_whole

# For each format the folder below the output folder that the masks go to, and the name of the archive made of them.
_FOLDERS = {"masks": ".", "voc": "results/VOC2012/Segmentation/comp6_test_cls", "cityscapes": "results"}
_ARCHIVES = {"voc": "results.tar", "cityscapes": "results.zip"}
_SPECS = {"voc": VOC, "cityscapes": CITYSCAPES}
_CITYSCAPES_NAME = re.compile(r"[a-z-]+_\d{6}_\d{6}_leftImg8bit")


def check(form: str, spec: DatasetSpec, stems: list[str]) -> None:
    """Checks that a format's server would accept the predictions.

    Args:
      form: "masks", "voc" or "cityscapes"; ``config.predict.format``.
      spec: the model's classes.
      stems: the images' file names without their endings.

    Raises:
      UserError: if the classes or a name are not those of the format.
    """
    if spec.class_names != _SPECS.get(form, spec).class_names:
        raise UserError(f"config.predict.format={form}: the model's classes are those of {spec.name}, not {form}'s")
    if form == "cityscapes":
        for stem in stems:
            if not _CITYSCAPES_NAME.fullmatch(stem):
                raise UserError(
                    f"config.predict.format=cityscapes: {stem} is no Cityscapes name; the server finds results by "
                    f"names such as frankfurt_000000_000294_leftImg8bit"
                )


def mask_folder(form: str, output: pathlib.Path) -> pathlib.Path:
    """The folder, below the output folder, that the masks of a format go to."""
    return output / _FOLDERS[form]


def encode(form: str, label: np.ndarray, spec: DatasetSpec) -> bytes:
    """Encodes class ids, uint8 [H, W], as a PNG with the classes' colours; for Cityscapes as its label ids, grey."""
    if form != "cityscapes":
        return encode_label(label, spec.palette())
    buffer = io.BytesIO()
    Image.fromarray(CITYSCAPES_RAW_IDS[label]).save(buffer, "PNG")
    return buffer.getvalue()


def pack(form: str, output: pathlib.Path, stems: list[str]) -> pathlib.Path | None:
    """Writes the archive to submit: a tar file for VOC, a zip file for Cityscapes; returns its path, None for masks."""
    if form not in _ARCHIVES:
        return None
    path, folder = output / _ARCHIVES[form], mask_folder(form, output)
    masks = [folder / f"{stem}.png" for stem in sorted(stems)]
    with written_whole(path) as partial:
        if form == "voc":
            with tarfile.open(partial, "w") as tar:
                for mask in masks:
                    tar.add(mask, mask.relative_to(output))
        else:
            with zipfile.ZipFile(partial, "w") as archive:  # PNGs are compressed already
                for mask in masks:
                    archive.write(mask, mask.name)
    return path
