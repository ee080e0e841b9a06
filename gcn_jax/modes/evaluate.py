"""``--mode=eval``: the scores of trained models, as tables, ``eval.json`` and ``report.html``."""

import math
import pathlib
import zlib
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_jax.checkpoints import temperature
from gcn_jax.checkpoints.best import read_best
from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data.pictures import one_class, visible
from gcn_jax.data.samples import Source
from gcn_jax.data.sources import open_source
from gcn_jax.data.specs import VOID
from gcn_jax.evaluation.evaluator import Evaluation, Evaluator
from gcn_jax.evaluation.result import as_json, comparison, score_table
from gcn_jax.files import RunFile, make_workdir, output_path, write_json, write_text
from gcn_jax.inference.labeller import Labeller
from gcn_jax.modes import receptive_field
from gcn_jax.report.examples import Example
from gcn_jax.report.page import render
from gcn_jax.runtime.mesh import local_mesh, make_mesh, replicated
from gcn_jax.training.run_log import read_records

_SHOWN = 3  # images of each rank in a report


def run(configs: dict[pathlib.Path, ml_collections.ConfigDict]) -> dict[str, dict[str, Any]]:
    """Evaluates workdirs; prints tables; then writes ``eval.json`` and ``report.html`` to each.

    Of a model's file, ``model.safetensors``, they become ``model.eval.json`` and ``model.report.html`` beside it.

    Args:
      configs: of each workdir or file.
    """
    for workdir in configs:
        make_workdir(workdir)
    fields = {workdir: receptive_field.read(workdir) for workdir in configs}
    results, shown = {}, {}
    for workdir, config in configs.items():
        results[str(workdir)], shown[workdir] = _evaluate(config, workdir)
    if len(results) > 1:
        print(f"\n{comparison(results)}", flush=True)
    for workdir, config in configs.items():
        result, spec = results[str(workdir)], settings.spec_from(config)
        write_json(output_path(workdir, RunFile.EVALUATION), result)
        best = read_best(workdir) if workdir.is_dir() else None
        page = render(
            str(workdir),
            result,
            spec,
            read_records(workdir),
            shown[workdir],
            results,
            fields[workdir],
            best.score if best else "miou",
        )
        write_text(output_path(workdir, RunFile.REPORT), page)
        say(f"written: {output_path(workdir, RunFile.EVALUATION)}, {output_path(workdir, RunFile.REPORT)}")
    return results


def _evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> tuple[dict[str, Any], list[Example]]:
    """Evaluates a model and prints its table; returns the content of its ``eval.json``, and pictures."""
    mesh = make_mesh(config.mesh.data, config.mesh.space)
    step, variables = load_trained(workdir, config.eval.checkpoint)
    config = temperature.settled(config, workdir, step)
    spec, protocol = settings.spec_from(config), settings.protocol(config)
    source = open_source("eval", settings.datasets(config))
    labeller = Labeller(settings.model_from(config), settings.preprocessing(config), protocol, local_mesh(mesh))
    say(f"evaluating step {step} of {workdir} on {len(source)} images of {config.data.eval}")
    evaluation = Evaluator(source, labeller, spec, settings.reading(config))(
        jax.device_put(variables, replicated(mesh))
    )
    assert evaluation is not None, "nothing told it to stop"
    result = as_json(evaluation, step, config.data.eval, protocol, spec.class_names)
    print(score_table(result), flush=True)
    return result, examples(evaluation, source)


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
        label = sample["label"]
        prediction = np.frombuffer(zlib.decompress(image.packed), np.uint8).reshape(label.shape)
        is_wrong = label != prediction if label.ndim == 2 else ((label != prediction) & (label != VOID)).any(-1)
        maps = one_class(label), one_class(prediction), is_wrong
        chosen.append(Example(image.image_id, ranks[place], image.miou, visible(sample["image"]), *maps))
    return chosen
