"""Draws docs/crf.jpg, which shows what the CRF makes of polygons drawn by hand.

    pip install -c requirements.txt ".[bench]" && python -m bench.crf_picture

The photograph is scikit-image's `astronaut` (NASA, public domain). No network is used: polygons with few corners, which
miss the objects' outlines by up to 20 pixels, are blurred and stand for a network's coarse probabilities.
"""

import pathlib

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage import data

from gcn_jax import crf
from gcn_jax.data.pictures import overlay

POLYGONS = [
    [(150, 60), (180, 15), (280, 15), (310, 90), (270, 180), (345, 260), (345, 345), (280, 420), (280, 512), (15, 512),
     (20, 330), (60, 230), (130, 200)],
    [(0, 0), (55, 0), (75, 140), (95, 220), (35, 300), (10, 420), (0, 512)],
    [(395, 0), (450, 0), (455, 180), (445, 265), (360, 265), (365, 190)],
    [(330, 360), (410, 335), (480, 380), (505, 470), (490, 512), (280, 512), (285, 430)],
]  # fmt: skip
COLORS = np.array([(0, 0, 0), (230, 120, 30), (40, 160, 60), (60, 110, 230), (200, 60, 200)], np.uint8)
PARAMS = crf.Params(10, 3.0, 3.0, 10.0, 60.0, 12.0)


def main() -> None:
    """Writes a picture of three parts: the photograph, the polygons, and what the CRF makes of them."""
    image = data.astronaut()
    drawn = Image.new("L", image.shape[1::-1])
    for i, polygon in enumerate(POLYGONS):
        ImageDraw.Draw(drawn).polygon(polygon, fill=i + 1)
    coarse = np.eye(len(COLORS), dtype=np.float32)[np.array(drawn)] * 0.8 + 0.2 / len(COLORS)
    coarse = ndimage.gaussian_filter(coarse, (6, 6, 0))
    refined = crf.refine(image, crf.log_probabilities(coarse), PARAMS)
    labels = [probabilities.argmax(-1).astype(np.uint8) for probabilities in (coarse, refined)]
    row = np.hstack([image, *(overlay(image, label, COLORS) for label in labels)])
    small = Image.fromarray(row).resize((row.shape[1] * 5 // 8, row.shape[0] * 5 // 8), Image.Resampling.LANCZOS)
    small.save(pathlib.Path(__file__).parents[1] / "docs" / "crf.jpg", quality=88)


if __name__ == "__main__":
    main()
