"""Compares time and memory of the CRF with pydensecrf2, the authors' C++ code, on the same image and cores.

    pip install -c requirements.txt ".[bench]" && python -m bench.crf --data_dir=DIR

There are two images, one of 375x500 pixels with 21 classes and one of 1024x2048 with 19, and two sets of parameters,
DeepLab-v2's for VOC and wider kernels; all with 10 iterations. The images are the first ones of VOC's and Cityscapes'
training images in DIR, resized if need be; without DIR they are a photograph of scikit-image, resized. The unaries come
from the image's brightness, in as many steps as there are classes, moved, blurred and with noise. What is timed is
`crf.refine` on arrays in memory, already compiled, and for pydensecrf2 everything from making its object on.
"""

import argparse
import functools
import json
import multiprocessing
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pydensecrf.densecrf as dcrf
from PIL import Image
from scipy import ndimage
from skimage import data as photographs

from bench.timing import compare
from gcn_jax import crf

SIZES = {"375x500x21": (375, 500, 21), "1024x2048x19": (1024, 2048, 19)}
PARAMS = {"VOC": crf.Params(), "wide": crf.Params(10, 3.0, 3.0, 10.0, 80.0, 13.0)}
PATTERNS = {"375x500x21": "**/JPEGImages/2007_000063.jpg", "1024x2048x19": "**/leftImg8bit/*/*/*.png"}


def problem(size: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 [H, W, 3], and logits, float32 [H, W, C]."""
    height, width, classes = SIZES[size]
    found = sorted(pathlib.Path(data_dir).glob(PATTERNS[size])) if data_dir else []
    picture = Image.open(found[0]).convert("RGB") if found else Image.fromarray(photographs.astronaut())
    image = np.array(picture if picture.size == (width, height) else picture.resize((width, height)))
    step = np.minimum(image.mean(-1) * classes / 256, classes - 1).astype(int)
    disturbed = np.eye(classes, dtype=np.float32)[np.roll(step, (4, -6), (0, 1))]
    disturbed += np.random.default_rng(0).normal(size=disturbed.shape).astype(np.float32) / 2
    logits = ndimage.gaussian_filter(disturbed, (3, 3, 0)) * 8
    return image, logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def theirs(image: np.ndarray, logits: np.ndarray, params: crf.Params) -> np.ndarray:
    """pydensecrf2's probabilities, float32 [H, W, C]."""
    height, width, classes = logits.shape
    peer = dcrf.DenseCRF2D(width, height, classes)
    peer.setUnaryEnergy(np.ascontiguousarray(-logits.reshape(-1, classes).T))
    peer.addPairwiseGaussian(sxy=params.position_sigma, compat=params.position_weight)
    peer.addPairwiseBilateral(
        sxy=params.sigma_xy, srgb=params.sigma_rgb, rgbim=np.ascontiguousarray(image), compat=params.bilateral_weight
    )
    return np.array(peer.inference(params.iterations)).T.reshape(logits.shape)


CONTESTANTS: dict[str, Callable[..., np.ndarray]] = {"ours": crf.refine, "pydensecrf2": theirs}


def seconds(contestant: str, image: np.ndarray, logits: np.ndarray, params: crf.Params) -> float:
    """The seconds that one run takes."""
    start = time.perf_counter()
    CONTESTANTS[contestant](image, logits, params)
    return time.perf_counter() - start


def peak_memory(contestant: str, size: str, data_dir: str, name: str) -> tuple[float, float]:
    """The most memory, in GB, that this process has held before and after its first run, which compiles."""
    image, logits = problem(size, data_dir)
    peaks = []
    for run in (lambda: None, lambda: CONTESTANTS[contestant](image, logits, PARAMS[name])):
        run()
        status = pathlib.Path("/proc/self/status").read_text("utf-8")  # only of this process, unlike getrusage's
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]) / 1e6)
    return peaks[0], peaks[1]


def main() -> None:
    """Measures time and memory and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="folder that holds VOCdevkit/ and cityscapes/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    args = parser.parse_args()
    cases: dict[str, dict[str, Callable[[], float]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for size in args.sizes:
        image, logits = problem(size, args.data_dir)
        for name, params in PARAMS.items():
            case = f"{size}, {name}"
            cases[case] = {c: functools.partial(seconds, c, image, logits, params) for c in CONTESTANTS}
            first, second = (seconds("ours", image, logits, params) for _ in range(2))
            ours, peer = crf.refine(image, logits, params), theirs(image, logits, params)
            found[case] = {
                "compile_s": first - second,
                "equal_labels": float((ours.argmax(-1) == peer.argmax(-1)).mean()),
                "mean_difference": float(np.abs(ours - peer).mean()),
            }

    def details() -> dict[str, Any]:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for size in args.sizes:
                for name in PARAMS:
                    for contestant in CONTESTANTS:
                        before, after = pool.apply(peak_memory, (contestant, size, args.data_dir, name))
                        found[f"{size}, {name}"][f"{contestant}_gb"] = after
                        found[f"{size}, {name}"][f"{contestant}_gb_before"] = before
        for case, values in found.items():
            print(case, json.dumps(values))
        return {"details": found}

    rounds = dict.fromkeys(cases, args.rounds)
    compare("crf", cases, rounds=rounds, versions=("jax", "numpy", "pydensecrf2"), details=details)


if __name__ == "__main__":
    main()
