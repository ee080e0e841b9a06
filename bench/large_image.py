"""Labels a georeferenced TIFF of any size with a tiny model, and measures the peak of the process's memory.

    python -m bench.large_image --side=30000

The image, of three bands of 8 bits, is drawn tile by tile; most tiles of a sparse one are not even stored. The model is
not trained. Each measurement is a process of its own: its peak is what the system says, libraries and all.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

_TILE = 512
_CHILD = """
import json, pathlib, resource, sys, time
from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.data import rasters
from gcn_jax.inference import large_images
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.models import init_variables
from gcn_jax.modes.predict_rasters import label_raster
folder, changes, megabytes = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
large_images.SUM_BYTES, rasters.CACHE = megabytes * 2**20, megabytes
config = config_lib.default()
config.data.update(train="shapes/train", eval="shapes/val")
config.model.update(backbone="resnet14", width=4, kernel_size=3)
config.eval.update(changes)
trained = make_segmenter(config, init_variables(settings.model_from(config), 0))
start = time.perf_counter()
paths = {"mask": folder / "mask.tif", "overlay": folder / "overlay.jpg"}
label_raster(trained, folder / "image.tif", settings.datasets(config), paths, 8)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak}))
"""


def write_sparse(path: pathlib.Path, side: int, every: int = 0) -> None:
    """Writes a georeferenced TIFF of side x side pixels, of which every n-th tile holds noise, the others nothing."""
    import rasterio

    options: dict[str, Any] = {"width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    options |= {"transform": rasterio.Affine(0.1, 0, 4e5, 0, -0.1, 5e6), "compress": "deflate", "SPARSE_OK": True}
    options |= {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "photometric": "rgb", "BIGTIFF": "IF_SAFER"}
    rng = np.random.default_rng(0)
    with rasterio.open(path, "w", driver="GTiff", **options) as file:
        for place, (_, window) in enumerate(file.block_windows(1)):
            if every and place % every == 0:
                small = rng.integers(0, 256, (3, window.height // 8 + 1, window.width // 8 + 1), np.uint8)
                file.write(small.repeat(8, 1).repeat(8, 2)[:, : window.height, : window.width], window=window)


def measure(folder: pathlib.Path, side: int, megabytes: int = 256, **protocol: int) -> dict[str, float]:
    """Labels an image of side x side pixels in a process of its own: its seconds, and its peak of memory in MB.

    Args:
      folder: for the image and its mask.
      side: of the image, pixels.
      megabytes: what the sums of windows and GDAL's cache may take at most, each; the default is what it always is.
      **protocol: values of ``config.eval``.
    """
    write_sparse(folder / "image.tif", side, every=3)
    command = [sys.executable, "-c", _CHILD, str(folder), json.dumps(protocol), str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=30_000, help="pixels")
    parser.add_argument("--window", type=int, default=0, help="config.eval.window")
    parser.add_argument("--stride", type=int, default=0, help="config.eval.stride")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(pathlib.Path(folder), args.side, window=args.window, stride=args.stride)
    print(json.dumps({"large_image": {"side": args.side, **found}}))


if __name__ == "__main__":
    main()
