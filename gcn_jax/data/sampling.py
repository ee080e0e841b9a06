"""Which image is drawn for each place of training."""

import functools

import numpy as np

from gcn_jax.data.samples import Source
from gcn_jax.data.specs import VOID
from gcn_jax.errors import UserError


class Sampler:
    """Draws images: each once in an epoch, in an order of its own, or some by the classes that they hold.

    Args:
      source: of the images.
      seed: of the order.
      rare_share: the probability that an image is drawn by its classes instead: one of the classes, each as likely as
        the others, and then one of the images that hold it (class-aware sampling, Shen et al., ECCV 2016).

    Raises:
      UserError: if images are to be drawn by their classes and hold none.
    """

    def __init__(self, source: Source, seed: int, rare_share: float = 0.0):
        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng((seed, epoch)).permutation(len(source))

        self._order, self._length, self._rare_share = order, len(source), rare_share
        self._holders: list[np.ndarray] = []
        if rare_share:
            presence = source.class_presence()[:, :VOID]
            self._holders = [np.flatnonzero(presence[:, value]) for value in np.flatnonzero(presence.any(0))]
            if not self._holders:
                raise UserError(f"config.data.rare_share={rare_share}: the images to train on hold void alone")

    def at(self, epoch: int, place: int, rng: np.random.Generator) -> int:
        """The index of the image at a place of an epoch."""
        return self._by_class(rng) if self._is_rare(rng) else int(self._order(epoch)[place])

    def any(self, rng: np.random.Generator) -> int:
        """The index of any image."""
        return self._by_class(rng) if self._is_rare(rng) else int(rng.integers(self._length))

    def _is_rare(self, rng: np.random.Generator) -> bool:
        return self._rare_share > 0 and rng.random() < self._rare_share

    def _by_class(self, rng: np.random.Generator) -> int:
        holders = self._holders[rng.integers(len(self._holders))]
        return int(rng.choice(holders))
