"""From a source to batches, with grain: deterministic order, exact resume.

A batch is ``{"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W], "valid": bool [B]}`` and, a list of B each,
``"image_id"`` and ``"size"`` (rows and columns before padding). Rows with ``valid`` False only fill up the batch.
"""

import collections
from collections.abc import Iterator
from typing import Any

import grain
import ml_collections
import numpy as np

from gcn_jax.data import transforms
from gcn_jax.data.sources import Sample, Source
from gcn_jax.data.specs import VOID
from gcn_jax.data.transforms import PaddedSample

Batch = dict[str, Any]


def train_batches(source: Source, config: ml_collections.ConfigDict) -> grain.DatasetIterator:
    """Training batches, ``config.num_steps`` at least: shuffled each epoch, flipped, cropped and padded to size.

    Batch i depends on the seed and i alone. The iterator's `get_state` and `set_state` resume it exactly.
    """
    data = config.data

    def transform(sample: Sample, rng: np.random.Generator) -> PaddedSample:
        if data.flip:
            sample = transforms.flip(sample, rng)
        sample = transforms.crop(sample, data.size, rng)
        return transforms.pad_sample(sample, data.size, data.size, data.mean)

    epochs = config.num_steps * config.batch_size // len(source) + 1
    dataset = (
        grain.MapDataset.source(source)
        .seed(config.seed)
        .shuffle()
        .repeat(epochs)
        .random_map(transform)
        .batch(config.batch_size, batch_fn=_stack)
        .to_iter_dataset(grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.prefetch))
    )
    return iter(dataset)


def eval_batches(source: Source, config: ml_collections.ConfigDict, batch_size: int) -> Iterator[Batch]:
    """Every sample of a source once, whole, padded to one of a few shapes and batched by shape.

    The last batch of each shape is filled up with rows that are not `valid` and whose label is void.
    """
    data = config.data

    def transform(sample: Sample) -> PaddedSample:
        height, width = sample["label"].shape
        return transforms.pad_sample(sample, *transforms.padded_shape(height, width, data.size), data.mean)

    dataset = grain.MapDataset.source(source).map(transform)
    options = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.prefetch)
    waiting: dict[tuple[int, int], list[PaddedSample]] = collections.defaultdict(list)
    for sample in dataset.to_iter_dataset(options):
        group = waiting[sample["label"].shape]
        group.append(sample)
        if len(group) == batch_size:
            yield _stack(group)
            group.clear()
    for group in filter(None, waiting.values()):
        yield _fill(_stack(group), batch_size)


def _stack(samples: list[PaddedSample]) -> Batch:
    batch: Batch = {key: np.stack([sample[key] for sample in samples]) for key in ("image", "label")}
    lists = {key: [sample[key] for sample in samples] for key in ("image_id", "size")}
    return batch | {"valid": np.ones(len(samples), bool)} | lists


def _fill(batch: Batch, batch_size: int) -> Batch:
    missing = batch_size - len(batch["valid"])
    fillers = {"image": 0, "label": VOID, "valid": False}
    arrays = {
        key: np.pad(batch[key], ((0, missing), *((0, 0),) * (batch[key].ndim - 1)), constant_values=value)
        for key, value in fillers.items()
    }
    return arrays | {"image_id": batch["image_id"] + [""] * missing, "size": batch["size"] + [(0, 0)] * missing}
