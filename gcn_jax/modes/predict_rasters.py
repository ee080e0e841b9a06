"""What ``--mode=predict`` does with a `Raster`: a TIFF that is labelled in windows and keeps its georeference."""

import contextlib
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from gcn_jax.console import bar
from gcn_jax.data import bands, outputs, rasters
from gcn_jax.data.pictures import overlay
from gcn_jax.data.sources import Datasets
from gcn_jax.errors import UserError
from gcn_jax.inference.maps import Maps
from gcn_jax.inference.segmenter import Segmenter

PREVIEW = 2048  # pixels; no side of a raster's overlay is larger


def check_outputs(paths: Sequence[pathlib.Path], names: Sequence[str]) -> None:
    """Raises `UserError` if there are rasters, and an output is asked for that is not written of them."""
    odd = [name for name in names if name in outputs.OF_IMAGES]
    if paths and odd:
        text = f"{odd[0]} are not written of {paths[0].name}, which is labelled in windows; leave them out"
        raise UserError(f"config.predict.outputs: {text}")


def label_raster(
    trained: Segmenter, path: pathlib.Path, data: Datasets, paths: Mapping[str, pathlib.Path], bits: int
) -> tuple[np.ndarray | None, int]:
    """Labels a raster and writes its mask, confidence and entropy, as far as they are wanted.

    Args:
      trained: the model.
      path: of the raster.
      data: says which bands to read, and the value of white.
      paths: of the files to write, by their names in `outputs`.
      bits: of confidence and entropy.

    Returns:
      An overlay if it is wanted, uint8 [H, W, 3], made smaller until no side is above `PREVIEW`; and the value of white
      that an RGB image was scaled by, 0 if it has 8 bits.

    Raises:
      UserError: if the raster is damaged, or not of the bands and the kind of values that the model takes.
    """
    palette = trained.spec.palette()
    with rasters.opened(path, data.bands, data.white) as raster, contextlib.ExitStack() as stack:
        bands.check_kind(raster.read(0, 0, 1, 1), data.depth, str(path))
        height, width, _ = raster.shape
        progress = stack.enter_context(bar(path.name, height * width, "pixel", leave=False, unit_scale=True))
        files = {name: rasters.map_file(paths[name], raster, bits) for name in outputs.GREY if name in paths}
        wanted = ("labels", *files)
        if "mask" in paths:
            files["mask"] = rasters.map_file(paths["mask"], raster, palette=palette)
        files |= {name: rasters.map_file(path, raster) for name, path in paths.items() if name.startswith("mask/")}
        writes = {name: stack.enter_context(file) for name, file in files.items()}
        planes = (trained.spec.num_classes,) if trained.spec.multi_label else ()
        small = _Small(height, width, planes)
        for top, left, maps in trained.rows_of_large(raster, wanted):
            for name, write in writes.items():
                write(top, left, _values(name, maps, bits))
            small.add(top, left, maps["labels"])
            progress.update(math.prod(maps["labels"].shape[:2]))
        if "overlay" not in paths:
            return None, raster.white
        return overlay(raster.read(0, 0, height, width, small.sides), small.labels, palette), raster.white


def _values(name: str, maps: Maps, bits: int) -> np.ndarray:
    """What is written of an output, [h, w]; "mask/3" is the mask of class 3."""
    if name == "mask":
        return maps["labels"]
    if name.startswith("mask/"):
        return outputs.levels(maps["labels"][..., int(name.removeprefix("mask/"))], 8)
    return outputs.levels(maps[name], bits)


class _Small:
    """Labels made smaller until no side is above `PREVIEW`: of each pixel those in its middle, as GDAL takes them."""

    def __init__(self, height: int, width: int, planes: tuple[int, ...]):
        factor = min(1.0, PREVIEW / max(height, width))
        self.sides = max(1, round(height * factor)), max(1, round(width * factor))
        pairs = zip((height, width), self.sides, strict=True)
        self._rows, self._columns = (((np.arange(n) + 0.5) * length / n).astype(int) for length, n in pairs)
        self.labels = np.zeros((*self.sides, *planes), bool if planes else np.uint8)

    def add(self, top: int, left: int, labels: np.ndarray) -> None:
        """Takes a part of the labels, [h, w] or [h, w, C], at the row and the column of its first pixel."""
        rows = slice(*np.searchsorted(self._rows, (top, top + labels.shape[0])))
        columns = slice(*np.searchsorted(self._columns, (left, left + labels.shape[1])))
        self.labels[rows, columns] = labels[np.ix_(self._rows[rows] - top, self._columns[columns] - left)]
