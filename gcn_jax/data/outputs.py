"""What ``--mode=predict`` may write of an image: grey pictures, and arrays of what the network computes."""

import contextlib
import io
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from gcn_jax.errors import UserError
from gcn_jax.files import written_whole

# What can be asked for -> the ending of its file's name, and the maps that it is made of.
_OUTPUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mask": (".png", ("labels",)),
    "overlay": ("_overlay.jpg", ("labels",)),
    "confidence": ("_confidence.png", ("confidence",)),
    "entropy": ("_entropy.png", ("entropy",)),
    "probabilities": ("_probabilities.npz", ("probabilities",)),
    "polygons": ("", ("labels", "confidence")),  # one file for all images
}
FORM = f"one or more of {', '.join(_OUTPUTS)}, with commas"
GREY = ("confidence", "entropy")
ANNOTATIONS = "annotations.json"  # of polygons
OF_IMAGES = ("probabilities", "polygons")  # not of rasters
OF_ONE_CLASS = ("confidence", "entropy")  # not where a pixel may have several classes


def parse(text: str) -> tuple[str, ...]:
    """The outputs in ``config.predict.outputs``, such as "mask,entropy"; raises `ValueError` for others."""
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(_OUTPUTS) or len(set(names)) < len(names):
        raise ValueError(FORM)
    return names


def endings(names: Sequence[str], of_raster: bool = False, classes: Sequence[str] = ()) -> dict[str, str]:
    """What a file's name ends with, by output, for those that have a file for each image; PNGs of rasters are TIFFs.

    Args:
      names: of the outputs.
      of_raster: whether the image is one.
      classes: where a pixel may have several classes, their names: "mask" is then "mask/0", "mask/1", ..., one of each.

    Raises:
      UserError: if two classes would have the same file.
    """
    ends = {name: _OUTPUTS[name][0] for name in names if _OUTPUTS[name][0]}
    if classes and "mask" in ends:
        del ends["mask"]
        owners: dict[str, str] = {}
        for i, name in enumerate(classes):
            safe = re.sub(r"[^\w.-]+", "_", name)
            if (owner := owners.setdefault(safe.casefold(), name)) != name:
                raise UserError(
                    f"config.predict.outputs: the masks of the classes {owner!r} and {name!r} would both be called "
                    f"NAME_{safe}.png; leave mask out, and take probabilities"
                )
            ends[f"mask/{i}"] = f"_{safe}.png"
    return {name: end.replace(".png", ".tif") if of_raster else end for name, end in ends.items()}


def maps(names: Sequence[str], multi_label: bool = False) -> tuple[str, ...]:
    """The maps that outputs are made of, each once, in a fixed order.

    Where a pixel may have several classes, each has a confidence of its own: its probability.
    """
    needed = {needed for name in names for needed in _OUTPUTS[name][1]}
    if multi_label and "confidence" in needed:
        needed = needed - {"confidence"} | {"probabilities"}
    return tuple(sorted(needed))


def levels(values: np.ndarray, bits: int) -> np.ndarray:
    """Values in 0..1, float32 [H, W], as whole numbers of 8 or 16 bits: 1 is the largest."""
    return np.rint(np.clip(values, 0, 1) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def encode_grey(values: np.ndarray, bits: int) -> bytes:
    """Encodes values in 0..1, float32 [H, W], as a grey PNG of 8 or 16 bits: 1 is white."""
    buffer = io.BytesIO()
    Image.fromarray(levels(values, bits)).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def probabilities_file(
    path: pathlib.Path, shape: tuple[int, int, int], class_names: Sequence[str]
) -> Iterator[Callable[[np.ndarray], object]]:
    """Writes an .npz file, whole or not at all: "probabilities", float16 [H, W, C], and "classes", their names.

    Args:
      path: of the file.
      shape: H, W and C.
      class_names: of the classes.

    Yields:
      A function that takes the probabilities, float32 [h, W, C], in parts from top to bottom.
    """
    dtype = np.dtype("<f2")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with (
        written_whole(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        with archive.open("classes.npy", mode="w") as file:
            np.lib.format.write_array(file, np.array(class_names), allow_pickle=False)
        with archive.open("probabilities.npy", mode="w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            yield lambda rows: file.write(rows.astype(dtype).data)
