"""A split -> numbers: shared by training and ``--mode=eval``."""

import json
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from gcn_jax import checkpoints
from gcn_jax import config as config_lib
from gcn_jax.data.pipeline import eval_batches
from gcn_jax.data.sources import Source, open_source, spec_from
from gcn_jax.data.specs import DatasetSpec
from gcn_jax.logs import say
from gcn_jax.mesh import make_mesh, put_batch, replicated
from gcn_jax.metrics import ConfusionMatrix
from gcn_jax.pictures import triptych
from gcn_jax.progress import bar
from gcn_jax.steps import PyTree, make_eval_step


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation: exact pixel counts, and some pictures (image, truth, prediction)."""

    confusion: ConfusionMatrix
    num_images: int
    pictures: list[np.ndarray]


class Evaluator:
    """Evaluates variables on a source; its compiled step serves all evaluations of a run."""

    def __init__(self, source: Source, mesh: Mesh, config: ml_collections.ConfigDict):
        self._source, self._mesh, self._config = source, mesh, config
        self._spec = spec_from(config)
        self._eval_step = jax.jit(make_eval_step(config_lib.model_from(config), config))
        data = mesh.shape["data"]
        self._batch_size = math.ceil(config.eval.batch_size / data) * data

    def __call__(
        self, variables: dict[str, PyTree], should_stop: Callable[[], bool] = lambda: False
    ) -> Evaluation | None:
        """Counts every image of the source once, at its own size; None if told to stop on the way."""
        confusion, num_images = ConfusionMatrix.empty(self._spec.num_classes), 0
        pictures: list[np.ndarray] = []
        with bar("evaluating", len(self._source), "image", leave=False) as progress:
            for batch in eval_batches(self._source, self._config, self._batch_size):
                if should_stop():
                    return None
                counts, prediction = self._eval_step(variables, put_batch(batch, self._mesh))
                confusion = confusion.merge(counts)
                pictures += self._pictures(batch, prediction, self._config.eval.num_pictures - len(pictures))
                done = int(batch["valid"].sum())
                num_images += done
                progress.update(done)
        return Evaluation(confusion, num_images, pictures)

    def _pictures(self, batch: dict[str, Any], prediction: Any, most: int) -> list[np.ndarray]:
        if most <= 0:
            return []
        prediction, palette = np.asarray(prediction), self._spec.palette()
        pictures = []
        for i in np.flatnonzero(batch["valid"])[:most]:
            inside = (i, slice(batch["size"][i][0]), slice(batch["size"][i][1]))
            pictures.append(triptych(batch["image"][inside], batch["label"][inside], prediction[inside], palette))
        return pictures


def as_json(evaluation: Evaluation, spec: DatasetSpec, step: int) -> dict[str, Any]:
    """The content of ``eval.json``; scores are fractions in 0..1, null where nothing was counted."""
    scores = evaluation.confusion.compute()

    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    return {
        "step": step,
        "num_images": evaluation.num_images,
        "miou": number(scores["miou"]),
        "pixel_accuracy": number(scores["pixel_accuracy"]),
        "iou_per_class": {name: number(iou) for name, iou in zip(spec.class_names, scores["iou"], strict=True)},
        "confusion_matrix": np.asarray(evaluation.confusion.counts).tolist(),
    }


def table(result: dict[str, Any]) -> str:
    """The scores of ``eval.json`` as lines of text, in percent."""

    def percent(value: float | None) -> str:
        return "      -" if value is None else f"{100 * value:7.2f}"

    width = max(len(name) for name in result["iou_per_class"])
    width = max(width, len("pixel accuracy"))
    rows = [f"{name:<{width}}  {percent(iou)}" for name, iou in result["iou_per_class"].items()]
    rule = "-" * (width + 9)
    rows += [rule, f"{'mean IoU':<{width}}  {percent(result['miou'])}"]
    rows += [f"{'pixel accuracy':<{width}}  {percent(result['pixel_accuracy'])}"]
    return "\n".join([f"{'class':<{width}}  IoU (%)", rule, *rows])


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """``--mode=eval``: evaluates a workdir's checkpoint, prints a table, writes ``eval.json``."""
    saved = config_lib.load(workdir)
    config_lib.check_same_model(config, workdir, "--workdir", "evaluate it with the config it was trained with")
    mesh = make_mesh(config)
    averaged = saved.optimizer.ema_decay > 0
    step, variables = checkpoints.load_variables(workdir, config.eval.checkpoint, averaged=averaged)
    source = open_source("eval", config)
    say(f"evaluating step {step} of {workdir} on {len(source)} images of {config.data.eval}")
    evaluation = Evaluator(source, mesh, config)(jax.device_put(variables, replicated(mesh)))
    assert evaluation is not None, "nothing told it to stop"
    result = as_json(evaluation, spec_from(config), step)
    partial = workdir / "eval.json.part"
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(workdir / "eval.json")
    print(table(result))
    say(f"written: {workdir / 'eval.json'}")
    return result
