"""``--mode=receptive_field``: how far a trained model really sees, the paper's figure 3.

The valid (effective) receptive field of an output pixel is the gradient of its predicted class's logit with respect to
the network's input: absolute values, summed over channels, averaged over images (Luo et al., "Understanding the
Effective Receptive Field in Deep Convolutional Neural Networks", NIPS 2016).

Our choices: images are taken at the one of ``eval.scales`` that is nearest to 1, in a canvas of ``data.size`` squared,
or of ``eval.window`` if images are evaluated in windows. So that the pixel lies within each image and at the same place
of each canvas, an image is placed, or cut if it is larger, where its pixel at the chosen fractions of its height and
width meets the canvas's. Lengths are pixels of the network's input.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from gcn_jax import config as config_lib
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.console import say
from gcn_jax.data.pictures import save_picture
from gcn_jax.data.sources import open_source
from gcn_jax.errors import UserError
from gcn_jax.files import make_workdir
from gcn_jax.inference.receptive_field import mean_fields, measure, pairs, pixel_at, view
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.report.heat_map import Panel, sheet
from gcn_jax.report.receptive_field import Field
from gcn_jax.tables import aligned

PICTURE, NUMBERS = "receptive_field.png", "receptive_field.json"
_HEAD = ("run", "step", "pixel", "50 % within (px)", "90 % within (px)", "effective side (px)", "kernel at res-5 (px)")


def run(configs: dict[pathlib.Path, ml_collections.ConfigDict]) -> dict[str, dict[str, Any]]:
    """Draws the fields of workdirs side by side; prints a table; writes the picture and its numbers to each.

    Args:
      configs: of each workdir.

    Raises:
      UserError: if a workdir has no checkpoint or cannot be written, or a model's score does not depend on the image.
    """
    trained = {}
    for workdir, config in configs.items():
        make_workdir(workdir)
        trained[workdir] = load_trained(workdir, config.eval.checkpoint)
    runs, columns = {}, []
    for workdir, config in configs.items():
        step, variables = trained.pop(workdir)
        source = open_source("eval", config)
        # Drawn, since the first images of a split are often alike; the same for all runs.
        places = np.random.default_rng(config.seed).permutation(len(source))[: config.receptive_field.images]
        say(f"gradients of step {step} of {workdir} on {len(places)} images of {config.data.eval}")
        fields = mean_fields(config_lib.model_from(config), variables, source, places.tolist(), config)
        scale, side = view(config)
        sizes = []
        for fractions, field in zip(pairs(config), fields, strict=True):
            if not 0 < field.sum() < math.inf:
                at = f"config.receptive_field.pixels={_comma(fractions)}"
                raise UserError(f"{workdir}: at {at} the gradient is zero or not finite; there is no field to draw")
            pixel = dict(zip(("row", "column"), pixel_at(fractions, side, side), strict=True))
            sizes.append({"fractions": list(fractions), **pixel, **measure(field, **pixel)})
        runs[str(workdir)] = {
            "step": step,
            "data": config.data.eval,
            "images": [source.image_ids[i] for i in places],
            "scale": scale,
            "input_size": side,
            "kernel_side": _kernel_side(config),
            "pixels": sizes,
        }
        columns.append([Panel(str(workdir), f, **_marks(s)) for f, s in zip(fields, sizes, strict=True)])
    picture = sheet(columns)
    for workdir in configs:
        _write(workdir, picture, runs)
        say(f"written: {workdir / PICTURE}, {workdir / NUMBERS}; --mode=eval shows them in report.html")
    head, *lines = aligned(rows(runs))
    print("\n".join([head, "-" * len(head), *lines]))
    return runs


def _kernel_side(config: ml_collections.ConfigDict) -> int:
    """What a kernel of the head spans at res-5, in pixels of the input."""
    return STRIDE * (1 if config.model.head == "conv1x1" else config.model.kernel_size)


def _comma(fractions: Sequence[float]) -> str:
    return ",".join(f"{part:g}" for part in fractions)


def _marks(size: dict[str, Any]) -> dict[str, Any]:
    """What a panel shows of a pixel's numbers."""
    caption = f"50 % within {size['radius_50']:.0f} px, 90 % within {size['radius_90']:.0f} px"
    return {"caption": caption, **{key: size[key] for key in ("row", "column", "radius_50", "radius_90")}}


def rows(runs: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """A table of what ``receptive_field.json`` holds: its head, then a line for each run and pixel."""
    keys = ("radius_50", "radius_90", "effective_side")
    lines = [
        (name, str(run["step"]), _comma(p["fractions"]), *(f"{p[key]:.1f}" for key in keys), str(run["kernel_side"]))
        for name, run in runs.items()
        for p in run["pixels"]
    ]
    return [_HEAD, *lines]


def _write(workdir: pathlib.Path, picture: np.ndarray, runs: dict[str, dict[str, Any]]) -> None:
    partial = workdir / f"{PICTURE}.part"
    save_picture(picture, partial, format="PNG", optimize=True)
    partial.replace(workdir / PICTURE)
    partial = workdir / f"{NUMBERS}.part"
    partial.write_text(json.dumps({"runs": runs}, indent=2) + "\n")
    partial.replace(workdir / NUMBERS)


def read(workdir: pathlib.Path) -> Field | None:
    """What the mode left in a workdir, for its report; None if nothing.

    Raises:
      UserError: naming the file, if it is damaged.
    """
    path = workdir / NUMBERS
    try:
        with Image.open(workdir / PICTURE) as picture:
            picture.verify()
        return Field((workdir / PICTURE).read_bytes(), rows(json.loads(path.read_text())["runs"]))
    except (FileNotFoundError, NotADirectoryError):  # the latter, of a model's file
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError) as error:
        raise UserError(f"{workdir}: {PICTURE} or {NUMBERS} is damaged ({error}); delete both, or draw anew") from error
