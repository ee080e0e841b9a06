"""``--mode=crf_search``: the CRF's parameters by mean IoU on images of a validation split.

Every paper tunes them. The network labels each image once; then all combinations of the values of ``config.crf_search``
are tried on its probabilities.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from gcn_jax import crf
from gcn_jax.checkpoints import temperature
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.config import settings
from gcn_jax.console import bar, say
from gcn_jax.data import bands
from gcn_jax.data.samples import Selection, Source
from gcn_jax.data.sources import open_source
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError
from gcn_jax.evaluation.counts import class_iou, histogram
from gcn_jax.files import RunFile, make_workdir, output_path, write_json
from gcn_jax.inference.segmenter import Segmenter, make_segmenter
from gcn_jax.tables import table

NAMES = ("iterations", "position_weight", "position_sigma", "bilateral_weight", "sigma_xy", "sigma_rgb")


def combinations(choices: Mapping[str, Sequence[float]]) -> list[str]:
    """What ``config.eval.crf`` may be, of the values of each of `NAMES`; "", no CRF, is the first."""
    values = itertools.product(*(choices[name] for name in NAMES))
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
    if bands.parse(config.data.channels):
        raise UserError(f"config.data.channels={config.data.channels}: the CRF needs colours; it has no use for bands")
    if config.data.multi_label:
        raise UserError("config.data.multi_label=True: the CRF gives each pixel one class")
    if config.model.crf:
        raise UserError(
            f"config.model.crf={config.model.crf}: the network has a CRF of its own, with learnt parameters"
        )
    make_workdir(workdir)
    texts = combinations(config.crf_search)
    step, variables = load_trained(workdir, config.eval.checkpoint)
    source = open_source("eval", settings.datasets(config))
    num_images = min(config.crf_search.num_images or len(source), len(source))
    places = np.linspace(0, len(source) - 1, num_images).round().astype(int)
    trained = make_segmenter(temperature.settled(config, workdir, step), variables)
    trained = dataclasses.replace(trained, protocol=dataclasses.replace(trained.protocol, crf=""))
    say(f"trying {len(texts) - 1} CRFs with step {step} of {workdir} on {num_images} images of {config.data.eval}")
    scores = search(trained, Selection([source], [(0, int(place)) for place in places]), texts)
    result = {
        "step": step,
        "data": config.data.eval,
        "num_images": num_images,
        "order": list(NAMES),
        "results": [{"crf": text, "miou": miou} for text, miou in scores.items()],
    }
    print(score_table(scores))
    best = next(iter(scores))
    print(f"\nbest: --config.eval.crf={best}" if best else "\nno CRF was better than none: --config.eval.crf=")
    path = output_path(workdir, RunFile.CRF_SEARCH)
    write_json(path, result)
    say(f"written: {path}")
    return result


def score_table(scores: dict[str, float]) -> str:
    """Lines of text: what to set, the mean IoU in percent, and the gain over no CRF."""
    head = ["--config.eval.crf=", "mean IoU (%)", "gain"]
    rows = [(text or "(none)", f"{100 * m:.2f}", f"{100 * (m - scores['']):+.2f}") for text, m in scores.items()]
    return f"{', '.join(NAMES)}:\n{table([head], rows)}"
