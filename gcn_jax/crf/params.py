"""The parameters of the CRF, and how a config names them."""

import math
from dataclasses import dataclass, field
from typing import Any

import jax

FORMAT = (
    '"" for none, "voc", or six numbers: iterations, position weight, position sigma, bilateral weight, sigma_xy, '
    "sigma_rgb; sigmas above 0, such as 10,3,1,4,67,3"
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Params:
    """The parameters of a CRF; the defaults are DeepLab-v2's for VOC (Chen et al., TPAMI 2018).

    It is a pytree whose leaves are all parameters except the number of iterations, which is static.

    Attributes:
      iterations: number of mean-field iterations, 0 or more.
      position_weight: w_p, the weight of the position kernel, 0 or more.
      position_sigma: s_p, the standard deviation of the position kernel, in pixels.
      bilateral_weight: w_b, the weight of the bilateral kernel, 0 or more.
      sigma_xy: s_xy, the bilateral kernel's standard deviation in position, in pixels.
      sigma_rgb: s_rgb, the bilateral kernel's standard deviation in colour, on the scale 0-255.
      compatibility: float32 [C, C], the penalty mu(a, b) for class a where a neighbour has class b; None: Potts.
    """

    iterations: int = field(default=10, metadata={"static": True})
    position_weight: Any = 3.0
    position_sigma: Any = 1.0
    bilateral_weight: Any = 4.0
    sigma_xy: Any = 67.0
    sigma_rgb: Any = 3.0
    compatibility: Any = None


def parse(text: str) -> Params | None:
    """The parameters that ``config.eval.crf`` or ``config.predict.crf`` names.

    Args:
      text: "" for no CRF, "voc" for the defaults of `Params`, or its first six fields as numbers, separated by commas:
        "10,3,1,4,67,3".

    Returns:
      The parameters; None for "".

    Raises:
      ValueError: if the text is none of these, or a parameter is out of range.
    """
    if text in ("", "voc"):
        return Params() if text else None
    try:
        iterations, *numbers = [float(number) for number in text.split(",")]
        params = Params(int(iterations), *numbers)
        check_params(params)
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"must be {FORMAT}") from error
    if len(numbers) != 5 or iterations != params.iterations:
        raise ValueError(f"must be {FORMAT}")
    return params


def check_params(params: Params) -> None:
    """Raises a `ValueError` that names the first parameter that is out of range."""
    if params.iterations < 0:
        raise ValueError(f"iterations must be 0 or more. Got {params.iterations}")
    for name in ("position_sigma", "sigma_xy", "sigma_rgb"):
        value = getattr(params, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive. Got {value}")
    for name in ("position_weight", "bilateral_weight"):
        value = getattr(params, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more. Got {value}")
