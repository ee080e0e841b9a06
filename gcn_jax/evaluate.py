"""A split -> numbers: shared by training and ``--mode=eval``."""

import itertools
import json
import math
import pathlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from gcn_jax import config as config_lib
from gcn_jax import receptive_field
from gcn_jax.boundary import BOUNDARY_WIDTH, WIDTHS
from gcn_jax.data.pipeline import grouped
from gcn_jax.data.sources import Sample, Selection, Source, open_source, spec_from
from gcn_jax.export import load_trained
from gcn_jax.inference import Inference, window_stride
from gcn_jax.logs import read_records
from gcn_jax.mesh import gather, local_copy, local_mesh, make_mesh, replicated
from gcn_jax.metrics import SCORES, Counts
from gcn_jax.pictures import triptych
from gcn_jax.progress import bar, say
from gcn_jax.report import Example, render
from gcn_jax.steps import PyTree
from gcn_jax.tables import aligned

_SHOWN = 3  # images of each rank in a report


@dataclass(frozen=True)
class LabelledImage:
    """An image's own mean IoU, NaN if it is void everywhere, and its predicted labels, as `zlib` packs them."""

    image_id: str
    miou: float
    packed: bytes


@dataclass
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
      counts: of all images.
      images: of each place in the source.
      pictures: of some images: image, truth and prediction.
    """

    counts: Counts
    images: dict[int, LabelledImage] = field(default_factory=dict)
    pictures: list[np.ndarray] = field(default_factory=list)

    def pack(self) -> dict[str, Any]:
        """The same as what `gcn_jax.mesh.gather` can carry."""
        images = {place: [image.image_id, image.miou, image.packed] for place, image in self.images.items()}
        counts = [self.counts.confusion, self.counts.boundary]
        return {"counts": counts, "images": images, "pictures": self.pictures}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> "Evaluation":
        """What was packed."""
        images = {place: LabelledImage(*fields) for place, fields in packed["images"].items()}
        return cls(Counts(*packed["counts"]), images, packed["pictures"])


class Evaluator:
    """Evaluates variables on a source; its compiled programs serve all evaluations of a run.

    Each host evaluates every n-th image on its own devices of the mesh; then all hosts know all counts.
    """

    def __init__(self, source: Source, mesh: Mesh, config: ml_collections.ConfigDict):
        self._source, self._config, self._mesh = source, config, local_mesh(mesh)
        self._spec = spec_from(config)
        self._inference = Inference(config_lib.model_from(config), config, self._mesh)
        self._places = range(jax.process_index(), len(source), jax.process_count())

    def __call__(
        self, variables: dict[str, PyTree], should_stop: Callable[[], bool] = lambda: False
    ) -> Evaluation | None:
        """Counts every image of the source once, at its own size; None if a host was told to stop on the way."""
        own = self._share(local_copy(variables, self._mesh), should_stop)
        whole = Evaluation(Counts.empty(self._spec.num_classes))
        for packed in gather(own and own.pack()):
            if packed is None:
                return None
            share = Evaluation.unpack(packed)
            whole.counts = whole.counts.merge(share.counts)
            whole.images.update(share.images)
            whole.pictures += share.pictures
        whole.images = dict(sorted(whole.images.items()))
        return whole

    def _share(self, variables: dict[str, PyTree], should_stop: Callable[[], bool]) -> Evaluation | None:
        """Evaluates this host's images."""
        share, num_classes = Evaluation(Counts.empty(self._spec.num_classes)), self._spec.num_classes
        num_pictures = self._config.eval.num_pictures if jax.process_index() == 0 else 0
        with bar("evaluating", len(self._places), "image", leave=False) as progress:
            for place, sample, prediction in self._predictions(variables):
                if should_stop():
                    return None
                label = sample["label"]
                counts = Counts.from_model_output(label=label, prediction=prediction, num_classes=num_classes)
                share.counts = share.counts.merge(counts)
                packed = zlib.compress(prediction.tobytes(), 1)
                share.images[place] = LabelledImage(sample["image_id"], counts.miou(), packed)
                if len(share.pictures) < num_pictures:
                    share.pictures.append(triptych(sample["image"], label, prediction, self._spec.palette()))
                progress.update()
        return share

    def _predictions(self, variables: dict[str, PyTree]) -> Iterator[tuple[int, Sample, np.ndarray]]:
        """Each image's place in the source, sample and labels; the device works on the next group meanwhile."""
        share = Selection([self._source], [(0, place) for place in self._places])
        waiting: list[tuple[int, Sample]] = []
        labels: Callable[[], list[np.ndarray]] = list
        groups = grouped(share, self._config, self._inference.canvas, self._inference.batch_size)
        for group in itertools.chain(groups, [[]]):
            following = self._inference.start(variables, [sample["image"] for _, sample in group]) if group else list
            for (i, sample), prediction in zip(waiting, labels(), strict=True):
                yield self._places[i], sample, prediction
            waiting, labels = group, following


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
        "num_images": len(evaluation.images),
        "protocol": {
            **{key: config.eval[key] for key in ("scales", "flip", "window", "crf")},
            "stride": window_stride(config, config.eval.window),
        },
        **{key: number(scores[key]) for key in SCORES},
        "boundary_width": BOUNDARY_WIDTH,
        "trimap_miou": {str(w): number(miou) for w, miou in zip(WIDTHS, scores["trimap_miou"], strict=True)},
        "iou_per_class": by_class(scores["iou"]),
        "accuracy_per_class": by_class(scores["accuracy"]),
        "boundary_iou_per_class": by_class(scores["boundary_iou_per_class"]),
        "confusion_matrix": scores["confusion"].tolist(),
        "miou_per_image": {image.image_id: number(image.miou) for image in evaluation.images.values()},
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def table(result: dict[str, Any]) -> str:
    """The scores of ``eval.json`` as lines of text, in percent."""
    columns = ("iou_per_class", "accuracy_per_class", "boundary_iou_per_class")
    head, *rows = aligned(
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
    return "\n".join([head, rule, *rows, rule, *aligned(totals), rule, *aligned(trimaps)])


def comparison(results: dict[str, dict[str, Any]]) -> str:
    """The headlines of several runs' ``eval.json`` as lines of text, in percent: the paper's table 5."""
    rows = [(name, str(result["step"]), *(_percent(result[key]) for key in SCORES)) for name, result in results.items()]
    head, *lines = aligned([("run (scores in %)", "step", *SCORES.values()), *rows])
    return "\n".join([head, "-" * len(head), *lines])


def examples(evaluation: Evaluation, source: Source) -> list[Example]:
    """The best, the median and the worst images by their mean IoU, some of each, from best to worst."""
    images = {place: image for place, image in evaluation.images.items() if not math.isnan(image.miou)}
    ranked = sorted(images, key=lambda place: -images[place].miou)
    middle = max(len(ranked) - _SHOWN, 0) // 2
    ranks = {
        **dict.fromkeys(ranked[middle : middle + _SHOWN], "median"),
        **dict.fromkeys(ranked[-_SHOWN:], "worst"),
        **dict.fromkeys(ranked[:_SHOWN], "best"),
    }
    chosen = []
    for place in sorted(ranks, key=ranked.index):
        image, sample = images[place], source[place]
        prediction = np.frombuffer(zlib.decompress(image.packed), np.uint8).reshape(sample["label"].shape)
        chosen.append(Example(image.image_id, ranks[place], image.miou, sample["image"], sample["label"], prediction))
    return chosen


def run(configs: dict[pathlib.Path, ml_collections.ConfigDict]) -> dict[str, dict[str, Any]]:
    """``--mode=eval``: evaluates workdirs; prints tables; writes ``eval.json`` and ``report.html`` to each.

    Of a model's file, ``model.safetensors``, they become ``model.eval.json`` and ``model.report.html`` beside it.

    Args:
      configs: of each workdir or file.
    """
    fields = {workdir: receptive_field.read(workdir) for workdir in configs}
    results, shown = {}, {}
    for workdir, config in configs.items():
        mesh = make_mesh(config)
        step, variables = load_trained(workdir, config.eval.checkpoint)
        source = open_source("eval", config)
        say(f"evaluating step {step} of {workdir} on {len(source)} images of {config.data.eval}")
        evaluation = Evaluator(source, mesh, config)(jax.device_put(variables, replicated(mesh)))
        assert evaluation is not None, "nothing told it to stop"
        results[str(workdir)] = result = as_json(evaluation, config, step)
        shown[workdir] = examples(evaluation, source)
        _write(output_path(workdir, "eval.json"), json.dumps(result, indent=2) + "\n")
        print(table(result))
    for workdir, config in configs.items():
        records = read_records(workdir)
        result, spec = results[str(workdir)], spec_from(config)
        page = render(str(workdir), result, spec, records, shown[workdir], results, fields[workdir])
        _write(output_path(workdir, "report.html"), page)
        say(f"written: {output_path(workdir, 'eval.json')}, {output_path(workdir, 'report.html')}")
    if len(results) > 1:
        print(f"\n{comparison(results)}")
    return results


def output_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
    """Where what a mode says of a model goes: into its workdir, or beside its file."""
    return workdir.with_name(f"{workdir.stem}.{name}") if workdir.is_file() else workdir / name


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
