"""What the values of ``config.serve`` may be."""

import re
from collections.abc import Callable
from typing import Any

from gcn_jax.data.image_files import MAX_PIXELS
from gcn_jax.models.backbones.resnet import STRIDE

CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "serve.host": (lambda value: bool(re.fullmatch(r"[\w.:%-]+", value)), "an address or a name of this machine"),
    "serve.port": (lambda value: 0 <= value <= 65535, "0-65535"),
    "serve.longest": (lambda value: value == 0 or value >= STRIDE, f"at least {STRIDE} pixels, or 0: as in training"),
    "serve.max_megabytes": (lambda value: value > 0, "positive"),
    "serve.max_megapixels": (lambda value: 0 < value * 1e6 <= MAX_PIXELS, f"positive, at most {MAX_PIXELS // 10**6}"),
    "serve.queue": (lambda value: value > 0, "positive"),
}
