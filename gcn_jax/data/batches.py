"""From a source to batches, read ahead with grain, in an order that a resumed run repeats exactly.

A batch is ``{"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W], "inside": int32 [B, 4], "image_id": a list of B}``;
bands that are not RGB are [B, H, W, C] of uint8, uint16 or float32, labels of several classes a pixel uint8
[B, H, W, classes]. Images are padded with the mean colour, labels with void. "inside" is the first row and column that
is no padding, and the row and column behind the last; what a rotation brings in counts as inside, and so does all of an
image into which a second one is mixed.
"""

import collections
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from gcn_jax.data import transforms
from gcn_jax.data.mixing import mix
from gcn_jax.data.samples import Placed, Sample, Source
from gcn_jax.data.sampling import Sampler
from gcn_jax.data.specs import VOID
from gcn_jax.data.transforms import Turn

Batch = dict[str, Any]


@dataclass(frozen=True)
class Augmentation:
    """The random changes that training makes to a sample before it goes into a batch; ``config.data``.

    Attributes:
      size: height and width of the images in a batch, pixels.
      mean: the colour of the padding, RGB, 0-255, or a number for each band.
      flip: mirror left and right, with probability 1/2; the paper's only augmentation.
      scale: smallest and largest factor of a random resize.
      place_anywhere: put an image that is smaller than size at a random place; otherwise at the top left.
      color_jitter: brightness, contrast and saturation are multiplied by random factors from 1 - this to 1 + this.
      rotate: the largest angle by which an image is turned about its centre, either way, degrees.
      blur: the largest sigma of a Gaussian blur, pixels.
      noise: the largest standard deviation of Gaussian noise, 0-255.
      max_class_share: a crop is drawn again, up to 10 times, while one class covers more of it; 1: off.
      mix: "cutmix" or "classmix": a part of a second image is pasted, see `gcn_jax.data.mixing.mix`; "": off.
      mix_share: the probability of that.
      depth: the kind of the bands' values; "": uint8.
    """

    size: int
    mean: Sequence[float]
    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    place_anywhere: bool = False
    color_jitter: float = 0.0
    rotate: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    max_class_share: float = 1.0
    mix: str = ""
    mix_share: float = 0.0
    depth: str = ""

    def draw(self, sample: Sample, rng: np.random.Generator) -> Placed:
        """Applies the random transforms; the resulting image is at most size x size."""
        zoom = 1.0
        if tuple(self.scale) != (1.0, 1.0):
            factor = rng.uniform(*self.scale)
            zoom = max(factor, 1.0) if self.rotate else 1.0
            sample = transforms.scale(sample, factor / zoom)
        if self.color_jitter:
            sample = transforms.color_jitter(sample, self.color_jitter, rng)
        if self.flip:
            sample = transforms.flip(sample, rng)
        turn = Turn(rng.uniform(-self.rotate, self.rotate), zoom, self.mean) if self.rotate else None
        sample = transforms.crop(sample, self.size, rng, max_class_share=self.max_class_share, turn=turn)
        if self.blur:
            sample = transforms.blur(sample, self.blur, rng)
        if self.noise:
            sample = transforms.noise(sample, self.noise, rng)
        height, width = sample["label"].shape[:2]
        if self.place_anywhere:
            return sample, (rng.integers(self.size - height + 1), rng.integers(self.size - width + 1))
        return sample, (0, 0)

    def mixes(self, rng: np.random.Generator) -> bool:
        """Draws whether a second sample is pasted into one."""
        return bool(self.mix) and rng.random() < self.mix_share

    def paste(self, placed: Placed, second: Placed, rng: np.random.Generator) -> Placed:
        """Pastes a part of the second sample into the first; both are as `draw` returns them."""
        return mix(self.mix, placed, second, self.size, self.mean, rng)

    def assemble(self, samples: Iterable[Placed], batch_size: int) -> Batch:
        """Makes a batch of samples that are at most size x size; smaller ones are padded."""
        batch: Batch = {
            "image": np.empty((batch_size, self.size, self.size, len(self.mean)), self.depth or np.uint8),
            "inside": np.empty((batch_size, 4), np.int32),
            "image_id": [""] * batch_size,
        }
        for row, (sample, corner) in enumerate(samples):
            if not row:
                shape = (batch_size, self.size, self.size, *sample["label"].shape[2:])
                batch["label"] = np.empty(shape, np.uint8)
            transforms.place(batch["image"][row], sample["image"], self.mean, corner)
            transforms.place(batch["label"][row], sample["label"], VOID, corner)
            batch["inside"][row] = *corner, *np.add(corner, sample["label"].shape[:2])
            batch["image_id"][row] = sample["image_id"]
        return batch


@dataclass(frozen=True)
class Reading:
    """How samples are read ahead; ``config.data``.

    Attributes:
      num_threads: number of threads that read and decode.
      prefetch: number of samples that are read ahead.
    """

    num_threads: int = 4
    prefetch: int = 16


class TrainBatches(Iterator[Batch]):
    """An iterator over training batches: shuffled in each epoch, augmented, padded to one size.

    Batch i depends only on the seed and on i, not on the number of threads or processes, nor on interruptions.

    Args:
      source: the samples. Each epoch holds all of them once, in an order of its own, unless rare_share is above 0.
      augmentation: the random changes, and the size of the images in a batch.
      reading: how samples are read ahead.
      batch_size: number of samples in a batch, over all processes together.
      num_batches: number of batches after which the iterator ends.
      seed: of the order and of the random changes.
      share: (i, n) if this is process i of n; it gets every n-th sample of each batch, from the i-th on.
      rare_share: the share of samples that are drawn by the classes they hold, see `Sampler`; ``config.data``.

    Raises:
      UserError: naming a bad file, if all labels are searched for their classes.

    Examples:
      >>> from gcn_jax.data.batches import Augmentation, Reading, TrainBatches
      >>> from gcn_jax.data.shapes import ShapesSource
      >>> augmentation = Augmentation(size=64, mean=(124, 116, 104))
      >>> source = ShapesSource("train")  # drawn images
      >>> batches = TrainBatches(source, augmentation, Reading(), batch_size=2, num_batches=3, seed=0)
      >>> batch = next(batches)
      >>> batch["image"].shape, batch["label"].shape, len(batch["image_id"])
      ((2, 64, 64, 3), (2, 64, 64), 2)
      >>> state = batches.get_state()
      >>> second = next(batches)
      >>> batches.set_state(state)  # go back to where the state was taken
      >>> next(batches)["image_id"] == second["image_id"]
      True
      >>> len(list(batches))  # one is left
      1
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
        rare_share: float = 0.0,
    ):
        process, num_processes = share
        sampler = Sampler(source, seed, rare_share)

        def samples(step: int) -> Iterator[Placed]:
            for place in range(step * batch_size + process, (step + 1) * batch_size, num_processes):
                epoch, i = divmod(place, len(source))
                # From 1, since for NumPy (seed, epoch, 0) is the same seed as (seed, epoch), which drew the order.
                rng = np.random.default_rng((seed, epoch, 1 + i))
                placed = augmentation.draw(source[sampler.at(epoch, i, rng)], rng)
                if augmentation.mixes(rng):
                    second = augmentation.draw(source[sampler.any(rng)], rng)
                    placed = augmentation.paste(placed, second, rng)
                yield placed

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
        """The position, from which `set_state` goes on, in this process or in another; JSON can hold it."""
        return {"batches": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position: the next batch is the one that was next when `get_state` returned it."""
        self._position = state["batches"]
        self._iterator = iter(self._batches[self._position :].to_iter_dataset(self._options))


def group_by_shape(
    source: Source, key: Callable[[int, int], Hashable], size: int, reading: Reading
) -> Iterator[list[tuple[int, Sample]]]:
    """Yields every sample of a source once, uncropped and with its index, in groups whose samples have the same key.

    Args:
      source: the samples.
      key: computes the key of a sample from its height and width; None: the sample is a group of its own.
      size: number of samples in a group; the last group of each key may be smaller.
      reading: how samples are read ahead.
    """
    options = grain.ReadOptions(num_threads=reading.num_threads, prefetch_buffer_size=reading.prefetch)
    waiting: dict[Hashable, list[tuple[int, Sample]]] = collections.defaultdict(list)
    for index, sample in enumerate(grain.MapDataset.source(source).to_iter_dataset(options)):
        shape = key(*sample["label"].shape[:2])
        waiting[shape].append((index, sample))
        if shape is None or len(waiting[shape]) == size:
            yield waiting.pop(shape)
    yield from waiting.values()
