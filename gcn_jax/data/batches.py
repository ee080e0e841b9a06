"""From a source to batches, with grain: deterministic order, exact resume.

A batch is ``{"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W], "image_id": a list of B}``. Padding is the mean
colour in images, void in labels.
"""

import collections
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
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
            return assemble(samples(step), data, config.batch_size // num_processes)

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


def grouped(
    source: Source, config: ml_collections.ConfigDict, key: Callable[[int, int], Hashable], size: int
) -> Iterator[list[tuple[int, Sample]]]:
    """Every sample of a source once, whole, with its index, in groups that share a key.

    Args:
      source: of the samples, which are read ahead.
      config: for ``data.num_threads`` and ``data.prefetch``.
      key: of an image's height and width; None: the image is a group of its own.
      size: of a group; the last of each key may be smaller.
    """
    options = grain.ReadOptions(num_threads=config.data.num_threads, prefetch_buffer_size=config.data.prefetch)
    waiting: dict[Hashable, list[tuple[int, Sample]]] = collections.defaultdict(list)
    for index, sample in enumerate(grain.MapDataset.source(source).to_iter_dataset(options)):
        shape = key(*sample["label"].shape)
        waiting[shape].append((index, sample))
        if shape is None or len(waiting[shape]) == size:
            yield waiting.pop(shape)
    yield from waiting.values()


def assemble(samples: Iterable[Placed], data: ml_collections.ConfigDict, batch_size: int) -> Batch:
    """Makes a batch of samples that fit into ``data.size``."""
    batch: Batch = {
        "image": np.empty((batch_size, data.size, data.size, 3), np.uint8),
        "label": np.empty((batch_size, data.size, data.size), np.uint8),
        "image_id": [""] * batch_size,
    }
    for row, (sample, corner) in enumerate(samples):
        transforms.place(batch["image"][row], sample["image"], data.mean, corner)
        transforms.place(batch["label"][row], sample["label"], VOID, corner)
        batch["image_id"][row] = sample["image_id"]
    return batch
