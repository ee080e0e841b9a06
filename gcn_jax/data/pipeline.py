"""From a source to batches, with grain: deterministic order, exact resume.

A batch is ``{"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W], "valid": bool [B]}`` and, a list of B each,
``"image_id"`` and ``"size"`` (rows and columns before padding). Padding is the mean colour in images, void in labels.
Rows with ``valid`` False only fill up the batch.
"""

import collections
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import grain
import ml_collections
import numpy as np

from gcn_jax.data import transforms
from gcn_jax.data.sources import Sample, Source
from gcn_jax.data.specs import VOID

Batch = dict[str, Any]
Placed = tuple[Sample, tuple[int, int]]  # and the row and column of its first pixel in the padded image


def draw(sample: Sample, config: ml_collections.ConfigDict, rng: np.random.Generator) -> Placed:
    """Applies the random transforms of training that ``config.data`` asks for; the result fits into its size."""
    data = config.data
    if tuple(data.scale) != (1.0, 1.0):
        sample = transforms.scale(sample, data.scale[0], data.scale[1], rng)
    if data.color_jitter:
        sample = transforms.color_jitter(sample, data.color_jitter, rng)
    if data.flip:
        sample = transforms.flip(sample, rng)
    sample = transforms.crop(sample, data.size, rng)
    height, width = sample["label"].shape
    if data.place_anywhere:
        return sample, (rng.integers(data.size - height + 1), rng.integers(data.size - width + 1))
    return sample, (0, 0)


class TrainBatches(Iterator[Batch]):
    """Training batches, ``config.num_steps`` in all: shuffled each epoch, augmented, padded to size.

    Batch i depends on the seed and i alone, whatever the number of threads, processes and interruptions.

    Args:
      source: of the samples; each epoch holds each of them once, in another order.
      config: for ``batch_size``, ``num_steps``, ``seed`` and the ``data`` group.
      shard: (i, n): of n processes this is the i-th; it gets every n-th sample of each batch.
    """

    def __init__(self, source: Source, config: ml_collections.ConfigDict, shard: tuple[int, int] = (0, 1)):
        data, (process, num_processes) = config.data, shard

        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng((config.seed, epoch)).permutation(len(source))

        def samples(step: int) -> Iterator[Placed]:
            for place in range(step * config.batch_size + process, (step + 1) * config.batch_size, num_processes):
                epoch, i = divmod(place, len(source))
                # From 1: NumPy takes (seed, epoch, 0) for (seed, epoch), which drew the order.
                rng = np.random.default_rng((config.seed, epoch, 1 + i))
                yield draw(source[order(epoch)[i]], config, rng)

        def batch(step: int) -> Batch:
            return assemble(samples(step), (data.size, data.size), data.mean, config.batch_size // num_processes)

        self._batches = grain.MapDataset.range(config.num_steps).map(batch)
        ahead = max(data.prefetch // config.batch_size, data.num_threads)
        self._options = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=ahead)
        self.set_state({"batches": 0})

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """What `set_state` takes to go on from here, in this process or another."""
        return {"batches": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Makes the next batch the one that was next at `get_state`."""
        self._position = state["batches"]
        self._iterator = iter(self._batches[self._position :].to_iter_dataset(self._options))


def eval_batches(source: Source, config: ml_collections.ConfigDict, batch_size: int) -> Iterator[Batch]:
    """Every sample of a source once, whole, padded to one of a few shapes and batched by shape.

    The last batch of each shape is filled up with rows that are not `valid` and whose label is void.
    """
    data = config.data
    dataset = grain.MapDataset.source(source)
    options = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.prefetch)
    waiting: dict[tuple[int, int], list[Placed]] = collections.defaultdict(list)
    for sample in dataset.to_iter_dataset(options):
        height, width = sample["label"].shape
        shape = transforms.padded_shape(height, width, data.size)
        waiting[shape].append((sample, (0, 0)))
        if len(waiting[shape]) == batch_size:
            yield assemble(waiting.pop(shape), shape, data.mean, batch_size)
    for shape, samples in waiting.items():
        yield assemble(samples, shape, data.mean, batch_size)


def assemble(samples: Iterable[Placed], shape: tuple[int, int], mean: tuple[float, ...], batch_size: int) -> Batch:
    """Makes a batch of batch_size rows of a shape, of so many samples or fewer."""
    batch: Batch = {
        "image": np.empty((batch_size, *shape, 3), np.uint8),
        "label": np.empty((batch_size, *shape), np.uint8),
        "valid": np.zeros(batch_size, bool),
        "image_id": [""] * batch_size,
        "size": [(0, 0)] * batch_size,
    }
    row = -1
    for row, (sample, corner) in enumerate(samples):
        transforms.place(batch["image"][row], sample["image"], mean, corner)
        transforms.place(batch["label"][row], sample["label"], VOID, corner)
        batch["valid"][row] = True
        batch["image_id"][row] = sample["image_id"]
        batch["size"][row] = sample["label"].shape
    batch["image"][row + 1 :] = 0
    batch["label"][row + 1 :] = VOID
    return batch
