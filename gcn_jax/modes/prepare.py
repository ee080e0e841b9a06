"""``--mode=prepare``: reads all data once, before a long training does; says what they hold and draws what it sees."""

import pathlib

import ml_collections
import numpy as np

from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.data import lettering
from gcn_jax.data.batches import TrainBatches
from gcn_jax.data.legend import NO_CLASS
from gcn_jax.data.pictures import contact_sheet, save_picture
from gcn_jax.data.sources import open_sources, open_splits, spec_from
from gcn_jax.data.specs import VOID, DatasetSpec
from gcn_jax.files import RunFile, make_workdir, written_whole
from gcn_jax.modes.run_images import measure_bands
from gcn_jax.tables import table

_NUM_SAMPLES = 12


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Prepares the data of training and evaluation, prints counts and bands' statistics, writes ``contact_sheet.png``.

    Raises:
      UserError: naming the first missing or bad file.
    """
    make_workdir(workdir)
    data = settings.datasets(config)
    spec = spec_from(data)
    splits = open_splits(data)
    print(count_table({name: (len(split), split.pixels()) for name, split in splits.items()}, spec))
    train, evaluation = open_sources(data, splits)
    say(f"training: {len(train)} images of {config.data.train}")
    say(f"evaluation: {len(evaluation)} images of {config.data.eval}")

    measure_bands(config, splits)
    augmentation, reading = settings.augmentation(config), settings.reading(config)
    drawn = TrainBatches(
        train,
        augmentation,
        reading,
        batch_size=_NUM_SAMPLES,
        num_batches=1,
        seed=config.seed,
        rare_share=config.data.rare_share,
    )
    batch = next(drawn)
    sheet = contact_sheet(batch["image"], batch["label"], batch["image_id"], spec)
    with written_whole(workdir / RunFile.CONTACT_SHEET) as path:
        save_picture(sheet, path, format="PNG")
    if told := lettering.advice([*spec.class_names, *batch["image_id"]]):
        say(told)
    sheet_path = workdir / RunFile.CONTACT_SHEET
    say(f"{_NUM_SAMPLES} training samples with their masks, as drawn for training: {sheet_path}")


def count_table(counts: dict[str, tuple[int, np.ndarray]], spec: DatasetSpec) -> str:
    """Images and pixels of each class and its id, as text: name -> (images, pixels of each label value [256])."""
    values = {value: f"{value:3} {name}" for value, name in [*enumerate(spec.class_names), (VOID, "void")]}
    totals = [pixels[NO_CLASS] if spec.multi_label else pixels.sum() for _, pixels in counts.values()]
    images = [f"{number:,}" for number, _ in counts.values()]
    return table(
        [("", *counts), ("images", *images)],
        [
            *((name, *(f"{pixels[value]:,}" for _, pixels in counts.values())) for value, name in values.items()),
            ("pixels", *(f"{total:,}" for total in totals)),
        ],
    )
