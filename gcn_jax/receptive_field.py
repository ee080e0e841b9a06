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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from gcn_jax import checkpoints
from gcn_jax import config as config_lib
from gcn_jax.compilation import jit
from gcn_jax.data.sources import Source, open_source
from gcn_jax.data.transforms import place
from gcn_jax.errors import UserError
from gcn_jax.export import load_trained
from gcn_jax.heat_map import Panel, sheet
from gcn_jax.models import GCN
from gcn_jax.models.resnet import STRIDE
from gcn_jax.pictures import save_picture
from gcn_jax.progress import bar, say
from gcn_jax.report_pictures import Field
from gcn_jax.steps import PyTree, normalize
from gcn_jax.tables import aligned

PICTURE, NUMBERS = "receptive_field.png", "receptive_field.json"
_EFFECTIVE = 1 - 0.9545  # of the maximum: Luo et al.'s bound, two standard deviations of a Gaussian
_HEAD = ("run", "step", "pixel", "50 % within (px)", "90 % within (px)", "effective side (px)", "kernel at res-5 (px)")

Gradient = Callable[[dict[str, PyTree], np.ndarray, int, int], jax.Array]


def make_gradient(model: GCN, config: ml_collections.ConfigDict) -> Gradient:
    """Returns the jitted function ``(variables, image, row, column) -> field`` of one image and output pixel.

    The image is uint8 [H, W, 3]; the field float32 [H, W], with respect to the normalised image.
    """

    def gradient(variables: dict[str, PyTree], image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        def score(images):
            logits: Any = model.apply(variables, images, train=False)
            scores = logits[0, row, column]
            return scores[jnp.argmax(scores)]

        return jnp.abs(jax.grad(score)(normalize(image[None], config))[0]).sum(-1)

    return jit(gradient, model.dtype)


def pixel_at(fractions: Sequence[float], height: int, width: int) -> tuple[int, int]:
    """Row and column of the pixel at fractions of the height and the width; 1 is the last."""
    row, column = (min(int(part * length), length - 1) for part, length in zip(fractions, (height, width), strict=True))
    return row, column


def canvas_of(image: np.ndarray, fractions: Sequence[float], side: int, mean: Sequence[float]) -> np.ndarray:
    """An image's part of a square canvas on which its pixel at these fractions is at the same fractions.

    Args:
      image: uint8 [H, W, 3].
      fractions: of height and width, 0..1.
      side: of the canvas.
      mean: the colour of what the image does not cover.

    Returns:
      uint8 [side, side, 3].
    """
    ours, theirs = pixel_at(fractions, side, side), pixel_at(fractions, *image.shape[:2])
    top, left = (a - b for a, b in zip(ours, theirs, strict=True))
    part = image[max(-top, 0) :, max(-left, 0) :][:side, :side]
    canvas = np.empty((side, side, 3), np.uint8)
    place(canvas, part, mean, (max(top, 0), max(left, 0)))
    return canvas


def view(config: ml_collections.ConfigDict) -> tuple[float, int]:
    """The scale at which images are taken, and the side of the canvas."""
    scale = min(config.eval.scales, key=lambda scale: abs(math.log(scale)))
    if not config.eval.window:
        return scale, config.data.size
    return scale, math.ceil(config.eval.window * scale / STRIDE) * STRIDE


def mean_fields(
    model: GCN, variables: dict[str, PyTree], source: Source, places: Sequence[int], config: ml_collections.ConfigDict
) -> np.ndarray:
    """The fields of all chosen pixels, each averaged over images: float64 [pixels, side, side].

    Args:
      model: the network.
      variables: of it.
      source: of the images.
      places: of the images in the source.
      config: for ``receptive_field.pixels``, ``data`` and ``eval``.
    """
    scale, side = view(config)
    model = model.clone(backbone=model.backbone.clone(freeze=""))  # no gradient comes through what is fixed
    pixels, gradient = pairs(config), make_gradient(model, config)
    total = np.zeros((len(pixels), side, side))
    with bar("receptive field", len(places) * len(pixels), "gradient", leave=False) as progress:
        for index in places:
            image = _resized(source[index]["image"], scale)
            for i, fractions in enumerate(pixels):
                canvas = canvas_of(image, fractions, side, config.data.mean)
                total[i] += gradient(variables, canvas, *pixel_at(fractions, side, side))
                progress.update()
    return total / len(places)


def pairs(config: ml_collections.ConfigDict) -> list[tuple[float, float]]:
    """The chosen pixels, as fractions of height and width."""
    flat = config.receptive_field.pixels
    return list(zip(flat[::2], flat[1::2], strict=True))


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def measure(field: np.ndarray, row: int, column: int) -> dict[str, Any]:
    """The size of a field [H, W] around its pixel.

    Returns:
      ``radius_50`` and ``radius_90``, of the smallest discs around the pixel that hold these parts of the sum;
      ``effective_area``, how many values exceed 4.55 % of the maximum (Luo et al.), and ``effective_side``, its root.
    """
    height, width = field.shape
    distances = np.hypot(np.arange(height)[:, None] - row, np.arange(width) - column).ravel()
    order = np.argsort(distances)
    held = np.cumsum(field.ravel()[order])
    area = int(np.sum(field > _EFFECTIVE * field.max()))
    return {
        **{f"radius_{p}": float(distances[order][np.searchsorted(held, p / 100 * held[-1])]) for p in (50, 90)},
        "effective_area": area,
        "effective_side": math.sqrt(area),
    }


def run(configs: dict[pathlib.Path, ml_collections.ConfigDict]) -> dict[str, dict[str, Any]]:
    """Draws the fields of workdirs side by side; prints a table; writes the picture and its numbers to each.

    Args:
      configs: of each workdir.

    Raises:
      UserError: if a workdir has no checkpoint or cannot be written, or a model's score does not depend on the image.
    """
    trained = {}
    for workdir, config in configs.items():
        checkpoints.make_workdir(workdir)
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
