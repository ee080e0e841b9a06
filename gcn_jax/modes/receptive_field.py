"""``--mode=receptive_field``: how far trained models really see, side by side, the paper's figure 3."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data import lettering
from gcn_jax.data.pictures import save_picture
from gcn_jax.data.sources import open_source
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, make_workdir, write_json, written_whole
from gcn_jax.inference.receptive_field import Fractions, mean_fields, measure, pixel_at, view
from gcn_jax.inference.segmenter import make_segmenter
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.heads import SQUARE, STRIPS
from gcn_jax.report.heat_map import Panel, sheet
from gcn_jax.report.receptive_field import Field
from gcn_jax.tables import table

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
        found, fields = _draw(config, workdir, *trained.pop(workdir))
        runs[str(workdir)] = found
        sizes = found["pixels"]
        columns.append([Panel(str(workdir), f, **_marks(s)) for f, s in zip(fields, sizes, strict=True)])
    picture = sheet(columns)
    if told := lettering.advice(list(runs)):
        say(told)
    head, *lines = rows(runs)
    print(table([head], lines), flush=True)
    for workdir in configs:
        with written_whole(workdir / RunFile.FIELD_PICTURE) as path:
            save_picture(picture, path, format="PNG", optimize=True)
        write_json(workdir / RunFile.FIELD_NUMBERS, {"runs": runs})
        names = f"{workdir / RunFile.FIELD_PICTURE}, {workdir / RunFile.FIELD_NUMBERS}"
        say(f"written: {names}; --mode=eval shows them in {RunFile.REPORT}")
    return runs


def _draw(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, step: int, variables: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """What ``receptive_field.json`` holds of a run, and its fields, float64 [pixels, side, side]."""
    source, pixels = open_source("eval", settings.datasets(config)), pairs(config.receptive_field.pixels)
    # Drawn, since the first images of a split are often alike; the same for all runs.
    places = np.random.default_rng(config.seed).permutation(len(source))[: config.receptive_field.images]
    say(f"gradients of step {step} of {workdir} on {len(places)} images of {config.data.eval}")
    trained = make_segmenter(config, variables)
    fields = mean_fields(trained, source, places.tolist(), pixels)
    scale, side = view(trained.protocol)
    sizes = []
    for fractions, field in zip(pixels, fields, strict=True):
        if not 0 < field.sum() < math.inf:
            at = f"config.receptive_field.pixels={_comma(fractions)}"
            raise UserError(f"{workdir}: at {at} the gradient is zero or not finite; there is no field to draw")
        pixel = dict(zip(("row", "column"), pixel_at(fractions, side, side), strict=True))
        sizes.append({"fractions": list(fractions), **pixel, **measure(field, **pixel)})
    found = {
        "step": step,
        "data": config.data.eval,
        "images": [source.image_ids[i] for i in places],
        "scale": scale,
        "input_size": side,
        "kernel_side": _kernel_side(config),
        "pixels": sizes,
    }
    return found, fields


def pairs(flat: Sequence[float]) -> list[Fractions]:
    """The pixels of ``config.receptive_field.pixels``, as fractions of height and width."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def _kernel_side(config: ml_collections.ConfigDict) -> int | None:
    """What a kernel of the GCN's head spans at res-5, in pixels of the input; None: another decoder has none."""
    if config.model.decoder != "gcn":
        return None
    sides = {"conv1x1": 1, "strip_attention": SQUARE - 1 + max(STRIPS)}
    return STRIDE * sides.get(config.model.head, config.model.kernel_size)


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
        (
            name,
            str(run["step"]),
            _comma(p["fractions"]),
            *(f"{p[key]:.1f}" for key in keys),
            str(run["kernel_side"] or "-"),
        )
        for name, run in runs.items()
        for p in run["pixels"]
    ]
    return [_HEAD, *lines]


def read(workdir: pathlib.Path) -> Field | None:
    """What the mode left in a workdir, for its report; None if nothing.

    Raises:
      UserError: naming the file, if it is damaged.
    """
    path = workdir / RunFile.FIELD_NUMBERS
    try:
        with Image.open(workdir / RunFile.FIELD_PICTURE) as picture:
            picture.verify()
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return Field((workdir / RunFile.FIELD_PICTURE).read_bytes(), rows(runs))
    except (FileNotFoundError, NotADirectoryError):  # the latter, of a model's file
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError) as error:
        names = f"{RunFile.FIELD_PICTURE} or {RunFile.FIELD_NUMBERS}"
        raise UserError(f"{workdir}: {names} is damaged ({error}); delete both, or draw them again") from error
