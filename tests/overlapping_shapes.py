"""Small folders of drawn images in which classes overlap, as tests make them."""

import numpy as np
from PIL import Image

CLASSES = ("disk", "square", "stripe")
SIDE = 64


def draw(number):
    """An image, uint8 [SIDE, SIDE, 3], and its truth, bool [SIDE, SIDE, 3]: each class is a colour that is added."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    row, column, top, left, at = rng.integers(12, SIDE - 12, 5)
    planes = np.stack([
        np.hypot(y - row, x - column) < rng.integers(10, 18),
        np.maximum(abs(y - top), abs(x - left)) < rng.integers(8, 16),
        (abs(x - at) < 5) & (number % 3 > 0),  # not in each image
    ], axis=-1)  # fmt: skip
    image = rng.integers(0, 60, (SIDE, SIDE, 3)) + 150 * planes
    return image.astype(np.uint8), planes


def write(root, numbers=range(10), values=(0, 255), ending="png"):
    """Writes images and a folder of masks for each class; an image has no mask of a class that it does not hold."""
    for number in numbers:
        image, planes = draw(number)
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / f"images/{number}.png")
        for name, plane in zip(CLASSES, np.moveaxis(planes, -1, 0), strict=True):
            (root / "masks" / name).mkdir(parents=True, exist_ok=True)
            if plane.any():
                Image.fromarray(np.array(values, np.uint8)[plane.astype(int)]).save(
                    root / f"masks/{name}/{number}.{ending}"
                )
    return root
