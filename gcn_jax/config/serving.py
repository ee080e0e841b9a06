"""What the values of ``config.serve`` may be."""

import re

from gcn_jax.data.image_files import MAX_PIXELS
from gcn_jax.models.backbones.resnet import STRIDE

CHECKS = {
    "host": (lambda value: bool(re.fullmatch(r"[\w.:%-]+", value)), "an address or a name of this machine"),
    "port": (lambda value: 0 <= value <= 65535, "0-65535"),
    "longest": (lambda value: value == 0 or value >= STRIDE, f"at least {STRIDE} pixels, or 0: as in training"),
    "max_megabytes": (lambda value: value > 0, "positive"),
    "max_megapixels": (lambda value: 0 < value * 1e6 <= MAX_PIXELS, f"positive, at most {MAX_PIXELS // 10**6}"),
    "queue": (lambda value: value > 0, "positive"),
}
