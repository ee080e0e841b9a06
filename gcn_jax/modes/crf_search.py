"""``--mode=crf_search``: the CRF's parameters by mean IoU on images of a validation split.

Every paper tunes them. The network labels each image once; then all combinations of the values of ``config.crf_search``
are tried on its probabilities.
"""

import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np

from gcn_jax import config as config_lib
from gcn_jax import crf
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.console import bar, say
from gcn_jax.data.sources import Selection, Source, open_source
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError
from gcn_jax.evaluation.counts import class_iou, histogram
from gcn_jax.files import output_path
from gcn_jax.inference.segmenter import Segmenter

NAMES = ("iterations", "position_weight", "position_sigma", "bilateral_weight", "sigma_xy", "sigma_rgb")


def combinations(config: ml_collections.ConfigDict) -> list[str]:
    """What ``config.eval.crf`` may be; "", no CRF, is the first."""
    values = itertools.product(*(config.crf_search[name] for name in NAMES))
    return ["", *(",".join(f"{value:g}" for value in combination) for combination in values)]


def search(segmenter: Segmenter, source: Source, texts: list[str]) -> dict[str, float]:
    """The mean IoU of all images of a source by each CRF, the best first.

    Args:
      segmenter: without a CRF of its own.
      source: of images with labels.
      texts: as ``config.eval.crf``.
    """
    classes = segmenter.spec.num_classes
    confusions = {text: np.zeros((classes, classes), np.int64) for text in texts}
    with bar("searching", len(source) * len(texts), "CRF") as progress:
        for i in range(len(source)):
            sample = source[i]
            label = sample["label"]
            for text, prediction in _predictions(segmenter, sample["image"], texts):
                confusions[text] += histogram(label != VOID, (label, classes), (prediction, classes))
                progress.update()
    extra = np.zeros((classes, 1), np.int64)  # of predictions that are no class
    scores = {text: float(np.nanmean(class_iou(np.hstack([c, extra])))) for text, c in confusions.items()}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _predictions(segmenter: Segmenter, image: np.ndarray, texts: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    probabilities = segmenter.probabilities(image)
    logits = crf.log_probabilities(probabilities)
    for text in texts:
        params = crf.parse(text)
        try:
            refined = crf.refine(image, logits, params) if params else probabilities
        except ValueError as error:
            raise UserError(f"config.crf_search, {text}: {error}") from error
        yield text, refined.argmax(-1).astype(np.uint8)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Searches; prints a table, and writes ``crf_search.json`` to the workdir."""
    texts = combinations(config)
    step, variables = load_trained(workdir, config.eval.checkpoint)
    source = open_source("eval", config)
    num_images = min(config.crf_search.num_images or len(source), len(source))
    places = np.linspace(0, len(source) - 1, num_images).round().astype(int)
    config = config.copy_and_resolve_references()
    config.eval.crf = ""
    segmenter = Segmenter(config_lib.model_from(config), variables, config)
    say(f"trying {len(texts) - 1} CRFs with step {step} of {workdir} on {num_images} images of {config.data.eval}")
    scores = search(segmenter, Selection([source], [(0, int(place)) for place in places]), texts)
    result = {
        "step": step,
        "data": config.data.eval,
        "num_images": num_images,
        "order": list(NAMES),
        "results": [{"crf": text, "miou": miou} for text, miou in scores.items()],
    }
    path = output_path(workdir, "crf_search.json")
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(path)
    print(table(scores))
    best = next(iter(scores))
    print(f"\nbest: --config.eval.crf={best}" if best else "\nno CRF was better than none: --config.eval.crf=")
    say(f"written: {path}")
    return result


def table(scores: dict[str, float]) -> str:
    """Lines of text: mean IoU in percent, the gain over no CRF, what to set."""
    head = (
        f"{'mean IoU (%)':>12}  {'gain':>6}  --config.eval.crf (iterations, position weight, sigma, bilateral weight, "
    )
    rows = [f"{100 * m:>12.2f}  {100 * (m - scores['']):>+6.2f}  {text or '(none)'}" for text, m in scores.items()]
    return "\n".join([head, "-" * len(head), *rows])
