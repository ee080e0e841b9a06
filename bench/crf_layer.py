"""Compares five iterations of CRF-as-RNN, forward and backward ("ours"), with `crf.refine`'s five of the same kernels.

    python -m bench.crf_layer --data_dir=DIR

The image is the first of VOC's in DIR, of 375x500 pixels, resized if need be; the logits of 21 classes are noise. Both
are already compiled, and find the image's lattice points anew in each run.
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from bench.timing import compare
from gcn_jax import crf
from gcn_jax.crf.recurrent import refine_logits
from gcn_jax.runtime.compilation import platform_jit

HEIGHT, WIDTH, CLASSES = 375, 500, 21
PARAMS = crf.Params(5, 3.0, 3.0, 5.0, 160.0, 3.0)


def contestants(image: np.ndarray) -> dict[str, Callable[[], Any]]:
    """What runs on an image, uint8 [H, W, 3]."""
    logits = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, CLASSES)).astype(np.float32)
    starts = crf.RecurrentCRF.starts
    matrices = {name: start * np.eye(CLASSES, dtype=np.float32) for name, start in starts.items()}

    def loss(logits: jax.Array, matrices: dict[str, jax.Array], image: jax.Array) -> jax.Array:
        return jnp.square(refine_logits(image.astype(jnp.float32), logits, matrices, PARAMS, PARAMS.iterations)).sum()

    with_gradients = platform_jit(jax.value_and_grad(loss, argnums=(0, 1)), jnp.float32)
    return {
        "ours": lambda: jax.block_until_ready(with_gradients(logits, matrices, image)),
        "crf.refine": lambda: crf.refine(image, logits, PARAMS),
    }


def seconds(run: Callable[[], Any]) -> float:
    """The seconds that one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder that holds VOCdevkit/")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    path = min(pathlib.Path(args.data_dir).glob("**/JPEGImages/*.jpg"))
    runs = contestants(np.array(Image.open(path).convert("RGB").resize((WIDTH, HEIGHT))))
    for run in runs.values():  # compiles
        run()
    case = f"{HEIGHT}x{WIDTH}x{CLASSES}, {PARAMS.iterations} iterations"
    cases = {case: {name: functools.partial(seconds, run) for name, run in runs.items()}}
    compare("crf_layer", cases, rounds={case: args.rounds}, versions=("jax", "numpy"))


if __name__ == "__main__":
    main()
