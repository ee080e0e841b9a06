"""Georeferenced and very large TIFFs, read and written in windows with little memory, by `rasterio` (extra ``geo``)."""

import contextlib
import functools
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from gcn_jax.data import bands
from gcn_jax.data.deep_images import scale, white_of_samples
from gcn_jax.data.image_files import MAX_PIXELS, TIFF, errors_named
from gcn_jax.errors import UserError
from gcn_jax.files import written_whole

SUFFIX = ".tif"
HINT = 'pip install -c requirements.txt ".[geo]"'
CACHE = 256  # MB that GDAL keeps of blocks that it has read or has yet to write
_TILE = 512  # pixels, of the masks that are written
_GEOREFERENCES = (33550, 33922, 34264, 34735)  # TIFF's tags: pixel scale, tie points, transformation, keys
_BLOCK_ROWS = 256  # that are searched for the largest value at a time
_FAULT = "damaged or truncated TIFF, or of a kind that GDAL does not read"


@functools.cache
def library() -> Any:
    """The module `rasterio`; None if it is not installed."""
    try:
        import rasterio
    except ImportError:
        return None
    return rasterio


@contextlib.contextmanager
def _dataset(path: pathlib.Path) -> Iterator[Any]:
    with warnings.catch_warnings(), library().Env(GDAL_CACHEMAX=CACHE):
        warnings.simplefilter("ignore", library().errors.NotGeoreferencedWarning)
        with errors_named(str(path), _FAULT):
            dataset = library().open(path, driver="GTiff")
        with dataset:
            yield dataset


def _is_tiff(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in TIFF


def is_raster(path: pathlib.Path) -> bool:
    """Whether a file is a TIFF that has a georeference or more than `MAX_PIXELS` pixels, and `rasterio` is there."""
    try:
        if not library() or not _is_tiff(path):
            return False
        with _dataset(path) as dataset:
            return dataset.width * dataset.height > MAX_PIXELS or _has_georeference(dataset)
    except (OSError, UserError):  # of which its reader tells
        return False


def _has_georeference(dataset: Any) -> bool:
    return bool(dataset.crs or not dataset.transform.is_identity or dataset.gcps[0] or dataset.rpcs)


def loses_georeference(path: pathlib.Path) -> bool:
    """Whether a file is a TIFF with a georeference, and `rasterio` is not there to keep it."""
    try:
        if library() or not _is_tiff(path):
            return False
        with Image.open(path, formats=["TIFF"]) as image:
            return any(tag in image.tag_v2 for tag in _GEOREFERENCES)  # type: ignore[attr-defined]
    except Exception:  # of which its reader tells
        return False


class Raster:
    """An open TIFF whose pixels are read in windows, as `bands.decode` reads whole images but for its orientation.

    Attributes:
      shape: height, width and channels.
      white: of an image of more than 8 bits that is read as RGB, the value that becomes 255; 0 for all others.
    """

    def __init__(self, dataset: Any, path: pathlib.Path, chosen: bands.Bands, white: int):
        self.dataset, self._path, self._bands = dataset, path, chosen
        self._colors: np.ndarray | None = None
        self.white = 0
        if chosen:
            self._indexes = chosen
            if max(chosen) > dataset.count:
                raise UserError(f"{path}: has {dataset.count} bands, but config.data.channels takes band {max(chosen)}")
        else:
            self._indexes = (1, 2, 3) if dataset.count >= 3 else (1,)
            self._check_photograph()
            if self._values.name != "uint8":
                self.white = white or self._white()
        self.shape = dataset.height, dataset.width, len(chosen) or 3

    @property
    def _values(self) -> np.dtype:
        return np.result_type(*(self.dataset.dtypes[index - 1] for index in self._indexes))

    def _check_photograph(self) -> None:
        """Raises `UserError` for values that are no grey or RGB; notes the colours of a palette."""
        if self._values.kind not in "ui":
            raise UserError(f"{self._path}: holds {self._values}; a model of RGB takes 8 or 16 bits")
        kinds = [self.dataset.colorinterp[index - 1].name for index in self._indexes]
        if odd := {"cyan", "magenta", "yellow", "black"}.intersection(kinds):
            raise UserError(f"{self._path}: its bands are {sorted(odd)[0]}, not RGB; convert it")
        if kinds == ["palette"]:
            self._colors = np.zeros((256, 3), np.uint8)
            for value, color in self.dataset.colormap(1).items():
                self._colors[value & 255] = color[:3]

    def _white(self) -> int:
        """The value of white, as `images.white_of` finds it: from the stated number of bits or from all values."""
        bits = self.dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "16")
        low, high = 0, 0
        for top in range(0, self.dataset.height, _BLOCK_ROWS):
            values = self._samples(top, 0, min(top + _BLOCK_ROWS, self.dataset.height), self.dataset.width)
            low, high = min(low, int(values.min())), max(high, int(values.max()))
        if low < 0 or high > 65535:
            raise UserError(f"{self._path}: has values from {low} to {high}; convert it to 8 or 16 bits")
        white = white_of_samples(np.array([high]), 2 ** int(bits) - 1 if int(bits) < 16 else 0)
        return white if white != 255 else 0

    def _samples(
        self, top: int, left: int, bottom: int, right: int, shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        """What the file holds of a window, [h, w, bands]; resampled to a shape by taking the nearest pixels."""
        window = library().windows.Window(left, top, right - left, bottom - top)
        out = None if shape is None else (len(self._indexes), *shape)
        with errors_named(str(self._path), _FAULT):
            return np.moveaxis(self.dataset.read(self._indexes, window=window, out_shape=out), 0, -1)

    def read(self, top: int, left: int, bottom: int, right: int, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Reads a window, [bottom - top, right - left, channels], or its nearest pixels in a given shape."""
        samples = self._samples(top, left, bottom, right, shape)
        if self._bands:
            return bands.as_kind(samples, str(self._path))
        if self._colors is not None:
            return self._colors[samples[..., 0]]
        if self.white:
            samples = scale(samples.astype(np.uint16), self.white)
        return np.ascontiguousarray(np.broadcast_to(samples.astype(np.uint8), (*samples.shape[:2], 3)))


@contextlib.contextmanager
def opened(path: pathlib.Path, chosen: bands.Bands, white: int = 0) -> Iterator[Raster]:
    """Opens a TIFF.

    Args:
      path: of the file.
      chosen: the bands to read; (): RGB.
      white: see `Raster`; 0: the file's own.

    Raises:
      UserError: if it is damaged, or has not all of the bands.
    """
    with _dataset(path) as dataset:
        yield Raster(dataset, path, chosen, white)


@contextlib.contextmanager
def map_file(
    path: pathlib.Path, raster: Raster, bits: int = 8, palette: np.ndarray | None = None
) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    """Writes a map of a raster as a tiled and compressed TIFF with its georeference; it gets its name when complete.

    Args:
      path: of the file.
      raster: that was labelled.
      bits: of a value, 8 or 16.
      palette: the colours of all labels, uint8 [256, 3]; None: the values are grey.

    Yields:
      A function that writes values, [h, w], at the row and the column of their first pixel.
    """
    source, rasterio = raster.dataset, library()
    profile: dict[str, Any] = {"driver": "GTiff", "width": source.width, "height": source.height, "count": 1}
    profile |= {"dtype": f"uint{bits}", "crs": source.crs, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    profile |= {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE}
    if not source.transform.is_identity:
        profile["transform"] = source.transform
    with written_whole(path) as partial, rasterio.open(partial, mode="w", **profile) as file:
        if palette is not None:
            file.write_colormap(1, {value: (*color, 255) for value, color in enumerate(palette.tolist())})
        if source.gcps[0]:
            file.gcps = source.gcps
        if source.rpcs:
            file.rpcs = source.rpcs

        def write(top: int, left: int, values: np.ndarray) -> None:
            height, width = values.shape
            file.write(values, 1, window=rasterio.windows.Window(left, top, width, height))

        yield write
