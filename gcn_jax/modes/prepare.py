"""``--mode=prepare``: reads all data once, before a long training does; says what they hold and draws what it sees."""

import pathlib

import ml_collections
import numpy as np

from gcn_jax.console import say
from gcn_jax.data.batches import TrainBatches
from gcn_jax.data.pictures import contact_sheet, save_picture
from gcn_jax.data.sources import open_part, open_sources, parse, spec_from
from gcn_jax.data.specs import VOID, DatasetSpec
from gcn_jax.files import make_workdir

_NUM_SAMPLES = 12


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Prepares the data of training and evaluation, prints their counts, writes ``contact_sheet.png``.

    Raises:
      UserError: naming the first missing or bad file.
    """
    make_workdir(workdir)
    spec = spec_from(config)
    counts = {}
    for part in dict.fromkeys((p.name, p.split) for key in ("train", "eval") for p in parse(key, config)):
        source = open_part(*part, config)
        counts["/".join(part)] = (len(source), source.pixels())
    print(table(counts, spec))
    trained = np.sum([counts[f"{p.name}/{p.split}"][1] for p in parse("train", config) if not p.is_removed], axis=0)
    absent = [name for name, number in zip(spec.class_names, trained, strict=False) if not number]
    if absent:
        say(f"no pixel to learn from: {', '.join(absent)}")
    train, evaluation = open_sources(config)
    say(f"training: {len(train)} images of {config.data.train}")
    say(f"evaluation: {len(evaluation)} images of {config.data.eval}")

    sampled = config.copy_and_resolve_references()
    sampled.update(batch_size=_NUM_SAMPLES, num_steps=1)
    batch = next(TrainBatches(train, sampled))
    path = workdir / "contact_sheet.png"
    save_picture(contact_sheet(batch["image"], batch["label"], batch["image_id"], spec), path)
    say(f"{_NUM_SAMPLES} training samples with their masks, as drawn for training: {path}")


def table(counts: dict[str, tuple[int, np.ndarray]], spec: DatasetSpec) -> str:
    """Images and pixels of each class as lines of text: name -> (images, pixels of each label value [256])."""
    width = max(len(name) for name in (*spec.class_names, "images"))
    columns = [max(len(name), 15) for name in counts]

    def row(title: str, cells: list[str]) -> str:
        return "  ".join([f"{title:<{width}}", *(f"{c:>{w}}" for c, w in zip(cells, columns, strict=True))])

    values = [*enumerate(spec.class_names), (VOID, "void")]
    rule = "-" * len(row("", [""] * len(columns)))
    return "\n".join(
        [
            row("", list(counts)),
            row("images", [f"{number:,}" for number, _ in counts.values()]),
            rule,
            *(row(name, [f"{pixels[value]:,}" for _, pixels in counts.values()]) for value, name in values),
            row("pixels", [f"{pixels.sum():,}" for _, pixels in counts.values()]),
        ]
    )
