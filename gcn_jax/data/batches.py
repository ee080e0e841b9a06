"""From a source to batches, with grain: deterministic order, exact resume.

A batch is ``{"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W], "image_id": a list of B}``. Padding is the mean
colour in images, void in labels.
"""

import collections
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from gcn_jax.data import transforms
from gcn_jax.data.samples import Sample, Source
from gcn_jax.data.specs import VOID

Batch = dict[str, Any]
Placed = tuple[Sample, tuple[int, int]]  # and the row and column of its first pixel in the padded image


@dataclass(frozen=True)
class Augmentation:
    """What training does to a sample, at random, before it is put into a batch; ``config.data``.

    Attributes:
      size: batches are size x size pixels.
      mean: the colour of padding, RGB, 0-255.
      flip: mirror left and right, every second time; the paper's only augmentation.
      scale: the range of a random factor.
      place_anywhere: put images that are smaller than size anywhere in it, not at the top left.
      color_jitter: brightness, contrast and saturation change by a factor of up to 1 +- this.
    """

    size: int
    mean: Sequence[float]
    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    place_anywhere: bool = False
    color_jitter: float = 0.0

    def draw(self, sample: Sample, rng: np.random.Generator) -> Placed:
        """Applies the random transforms; the result fits into `size`."""
        if tuple(self.scale) != (1.0, 1.0):
            sample = transforms.scale(sample, self.scale[0], self.scale[1], rng)
        if self.color_jitter:
            sample = transforms.color_jitter(sample, self.color_jitter, rng)
        if self.flip:
            sample = transforms.flip(sample, rng)
        sample = transforms.crop(sample, self.size, rng)
        height, width = sample["label"].shape
        if self.place_anywhere:
            return sample, (rng.integers(self.size - height + 1), rng.integers(self.size - width + 1))
        return sample, (0, 0)

    def assemble(self, samples: Iterable[Placed], batch_size: int) -> Batch:
        """Makes a batch of samples that fit into `size`."""
        batch: Batch = {
            "image": np.empty((batch_size, self.size, self.size, 3), np.uint8),
            "label": np.empty((batch_size, self.size, self.size), np.uint8),
            "image_id": [""] * batch_size,
        }
        for row, (sample, corner) in enumerate(samples):
            transforms.place(batch["image"][row], sample["image"], self.mean, corner)
            transforms.place(batch["label"][row], sample["label"], VOID, corner)
            batch["image_id"][row] = sample["image_id"]
        return batch


@dataclass(frozen=True)
class Reading:
    """How samples are read ahead: by how many threads, and how many samples; ``config.data``."""

    num_threads: int = 4
    prefetch: int = 16


class TrainBatches(Iterator[Batch]):
    """Training batches: shuffled each epoch, augmented, padded to size.

    Batch i depends on the seed and i alone, whatever the number of threads, processes and interruptions.

    Args:
      source: of the samples; each epoch holds each of them once, in another order.
      augmentation: of the samples, and the size of the batches.
      reading: how far ahead.
      batch_size: over all processes.
      num_batches: in all.
      seed: of the order and the augmentation.
      share: (i, n): of n processes this is the i-th; it gets every n-th sample of each batch.
    """

    def __init__(
        self,
        source: Source,
        augmentation: Augmentation,
        reading: Reading,
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
    ):
        process, num_processes = share

        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng((seed, epoch)).permutation(len(source))

        def samples(step: int) -> Iterator[Placed]:
            for place in range(step * batch_size + process, (step + 1) * batch_size, num_processes):
                epoch, i = divmod(place, len(source))
                # From 1: NumPy takes (seed, epoch, 0) for (seed, epoch), which drew the order.
                rng = np.random.default_rng((seed, epoch, 1 + i))
                yield augmentation.draw(source[order(epoch)[i]], rng)

        def batch(step: int) -> Batch:
            return augmentation.assemble(samples(step), batch_size // num_processes)

        self._batches = grain.MapDataset.range(num_batches).map(batch)
        ahead = max(reading.prefetch // batch_size, reading.num_threads)
        self._options = grain.ReadOptions(num_threads=reading.num_threads, prefetch_buffer_size=ahead)
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


def group_by_shape(
    source: Source, key: Callable[[int, int], Hashable], size: int, reading: Reading
) -> Iterator[list[tuple[int, Sample]]]:
    """Every sample of a source once, whole, with its index, in groups that share a key.

    Args:
      source: of the samples, which are read ahead.
      key: of an image's height and width; None: the image is a group of its own.
      size: of a group; the last of each key may be smaller.
      reading: how far ahead.
    """
    options = grain.ReadOptions(num_threads=reading.num_threads, prefetch_buffer_size=reading.prefetch)
    waiting: dict[Hashable, list[tuple[int, Sample]]] = collections.defaultdict(list)
    for index, sample in enumerate(grain.MapDataset.source(source).to_iter_dataset(options)):
        shape = key(*sample["label"].shape)
        waiting[shape].append((index, sample))
        if shape is None or len(waiting[shape]) == size:
            yield waiting.pop(shape)
    yield from waiting.values()
