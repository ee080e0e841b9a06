"""``--mode=eval``: the scores of trained models, as tables, ``eval.json`` and ``report.html``."""

import json
import math
import pathlib
import zlib
from typing import Any

import jax
import ml_collections
import numpy as np

from gcn_jax.checkpoints.model_file import load_trained
from gcn_jax.console import say
from gcn_jax.data.sources import Source, open_source, spec_from
from gcn_jax.evaluation.evaluator import Evaluation, Evaluator
from gcn_jax.evaluation.result import as_json, comparison, table
from gcn_jax.files import _write, output_path
from gcn_jax.modes import receptive_field
from gcn_jax.report.page import Example, render
from gcn_jax.runtime.mesh import make_mesh, replicated
from gcn_jax.training.run_log import read_records

_SHOWN = 3  # images of each rank in a report


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
