"""A split -> numbers: shared by training and ``--mode=eval``."""

import json
import math
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from gcn_jax import checkpoints
from gcn_jax import config as config_lib
from gcn_jax.boundary import BOUNDARY_WIDTH, WIDTHS
from gcn_jax.data.pipeline import grouped
from gcn_jax.data.sources import Sample, Source, open_source, spec_from
from gcn_jax.inference import Inference
from gcn_jax.logs import read_records, say
from gcn_jax.mesh import make_mesh, replicated
from gcn_jax.metrics import SCORES, Counts
from gcn_jax.pictures import triptych
from gcn_jax.progress import bar
from gcn_jax.report import Example, render
from gcn_jax.steps import PyTree

_SHOWN = 3  # images of each rank in a report


@dataclass
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
      counts: of all images.
      miou: of each image, by its id; NaN if it is void everywhere.
      predictions: of each image, as `zlib` packs its pixels, by its place in the source.
      pictures: of some images: image, truth and prediction.
    """

    counts: Counts
    miou: dict[str, float] = field(default_factory=dict)
    predictions: dict[int, bytes] = field(default_factory=dict)
    pictures: list[np.ndarray] = field(default_factory=list)


class Evaluator:
    """Evaluates variables on a source; its compiled programs serve all evaluations of a run."""

    def __init__(self, source: Source, mesh: Mesh, config: ml_collections.ConfigDict):
        self._source, self._config = source, config
        self._spec = spec_from(config)
        self._inference = Inference(config_lib.model_from(config), config, mesh)

    def __call__(
        self, variables: dict[str, PyTree], should_stop: Callable[[], bool] = lambda: False
    ) -> Evaluation | None:
        """Counts every image of the source once, at its own size; None if told to stop on the way."""
        evaluation = Evaluation(Counts.empty(self._spec.num_classes))
        palette = self._spec.palette()
        with bar("evaluating", len(self._source), "image", leave=False) as progress:
            for index, sample, prediction in self._predictions(variables):
                if should_stop():
                    return None
                counts = Counts.from_model_output(
                    label=sample["label"], prediction=prediction, num_classes=self._spec.num_classes
                )
                evaluation.counts = evaluation.counts.merge(counts)
                evaluation.miou[sample["image_id"]] = counts.miou()
                evaluation.predictions[index] = zlib.compress(prediction.tobytes(), 1)
                if len(evaluation.pictures) < self._config.eval.num_pictures:
                    evaluation.pictures.append(triptych(sample["image"], sample["label"], prediction, palette))
                progress.update()
        return evaluation

    def _predictions(self, variables: dict[str, PyTree]) -> Iterator[tuple[int, Sample, np.ndarray]]:
        """Each image's place in the source, sample and labels; the device works on the next group meanwhile."""
        waiting: tuple[list[tuple[int, Sample]], Callable[[], list[np.ndarray]]] | None = None
        for group in grouped(self._source, self._config, self._inference.canvas, self._inference.batch_size):
            running = group, self._inference.start(variables, [sample["image"] for _, sample in group])
            if waiting:
                yield from _paired(*waiting)
            waiting = running
        if waiting:
            yield from _paired(*waiting)


def _paired(
    group: list[tuple[int, Sample]], wait: Callable[[], list[np.ndarray]]
) -> Iterator[tuple[int, Sample, np.ndarray]]:
    for (index, sample), prediction in zip(group, wait(), strict=True):
        yield index, sample, prediction


def as_json(evaluation: Evaluation, config: ml_collections.ConfigDict, step: int) -> dict[str, Any]:
    """The content of ``eval.json``; scores are fractions in 0..1, null where nothing was counted."""
    scores, names = evaluation.counts.compute(), spec_from(config).class_names

    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    def by_class(values: np.ndarray) -> dict[str, float | None]:
        return {name: number(value) for name, value in zip(names, values, strict=True)}

    return {
        "step": step,
        "data": config.data.eval,
        "num_images": len(evaluation.miou),
        "protocol": {key: config.eval[key] for key in ("scales", "flip", "window", "stride")},
        **{key: number(scores[key]) for key in SCORES},
        "boundary_width": BOUNDARY_WIDTH,
        "trimap_miou": {str(w): number(miou) for w, miou in zip(WIDTHS, scores["trimap_miou"], strict=True)},
        "iou_per_class": by_class(scores["iou"]),
        "accuracy_per_class": by_class(scores["accuracy"]),
        "boundary_iou_per_class": by_class(scores["boundary_iou_per_class"]),
        "confusion_matrix": scores["confusion"].tolist(),
        "miou_per_image": {image_id: number(miou) for image_id, miou in evaluation.miou.items()},
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def table(result: dict[str, Any]) -> str:
    """The scores of ``eval.json`` as lines of text, in percent."""
    columns = ("iou_per_class", "accuracy_per_class", "boundary_iou_per_class")
    head, *rows = _aligned(
        [
            ("class", "IoU (%)", "accuracy", "Boundary IoU"),
            *((name, *(_percent(result[column][name]) for column in columns)) for name in result["iou_per_class"]),
        ]
    )
    totals = [(name, _percent(result[key])) for key, name in SCORES.items()]
    trimaps = [
        ("trimap, up to px from a boundary", *result["trimap_miou"]),
        ("mean IoU", *map(_percent, result["trimap_miou"].values())),
    ]
    rule = "-" * len(head)
    return "\n".join([head, rule, *rows, rule, *_aligned(totals), rule, *_aligned(trimaps)])


def comparison(results: dict[str, dict[str, Any]]) -> str:
    """The headlines of several runs' ``eval.json`` as lines of text, in percent: the paper's table 5."""
    rows = [(name, str(result["step"]), *(_percent(result[key]) for key in SCORES)) for name, result in results.items()]
    head, *lines = _aligned([("run (scores in %)", "step", *SCORES.values()), *rows])
    return "\n".join([head, "-" * len(head), *lines])


def examples(evaluation: Evaluation, source: Source) -> list[Example]:
    """The best, the median and the worst images by their mean IoU, some of each, from best to worst."""
    places = dict(zip(source.image_ids, range(len(source)), strict=True))
    ranked = sorted(
        (i for i, miou in evaluation.miou.items() if not math.isnan(miou)), key=lambda i: -evaluation.miou[i]
    )
    middle = max(len(ranked) - _SHOWN, 0) // 2
    ranks = {**dict.fromkeys(ranked[middle : middle + _SHOWN], "median"), **dict.fromkeys(ranked[:_SHOWN], "best")}
    ranks.update(dict.fromkeys(ranked[_SHOWN:][-_SHOWN:], "worst"))
    chosen = []
    for image_id in sorted(ranks, key=lambda i: -evaluation.miou[i]):
        sample = source[places[image_id]]
        packed = zlib.decompress(evaluation.predictions[places[image_id]])
        prediction = np.frombuffer(packed, np.uint8).reshape(sample["label"].shape)
        miou = evaluation.miou[image_id]
        chosen.append(Example(image_id, ranks[image_id], miou, sample["image"], sample["label"], prediction))
    return chosen


def run(configs: dict[pathlib.Path, ml_collections.ConfigDict]) -> dict[str, dict[str, Any]]:
    """``--mode=eval``: evaluates workdirs; prints tables; writes ``eval.json`` and ``report.html`` to each.

    Args:
      configs: of each workdir.
    """
    results, shown = {}, {}
    for workdir, config in configs.items():
        mesh = make_mesh(config)
        averaged = config_lib.load(workdir).optimizer.ema_decay > 0
        step, variables = checkpoints.load_variables(workdir, config.eval.checkpoint, averaged=averaged)
        source = open_source("eval", config)
        say(f"evaluating step {step} of {workdir} on {len(source)} images of {config.data.eval}")
        evaluation = Evaluator(source, mesh, config)(jax.device_put(variables, replicated(mesh)))
        assert evaluation is not None, "nothing told it to stop"
        results[str(workdir)] = result = as_json(evaluation, config, step)
        shown[workdir] = examples(evaluation, source)
        _write(workdir / "eval.json", json.dumps(result, indent=2) + "\n")
        print(table(result))
    for workdir, config in configs.items():
        records = read_records(workdir)
        page = render(str(workdir), results[str(workdir)], spec_from(config), records, shown[workdir], results)
        _write(workdir / "report.html", page)
        say(f"written: {workdir / 'eval.json'}, {workdir / 'report.html'}")
    if len(results) > 1:
        print(f"\n{comparison(results)}")
    return results


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
