"""What the network says of canvases and windows: the mean over their views.

A view is what the network sees: resized by each of ``scales``, and mirrored too if ``flip`` is set. Its scores are
divided by the temperature before they become probabilities: by a softmax, or where a pixel may have several classes by
a sigmoid each. All are pure functions of arrays, which `Labeller` compiles.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gcn_jax.config.settings import Protocol
from gcn_jax.models import Network
from gcn_jax.models.ops.sampling import rescaled
from gcn_jax.models.preprocessing import Preprocessing, PyTree, normalize


def inside_of(model: Network, inside: Any) -> dict[str, Any]:
    """The argument that tells a model which part of its images is no padding; nothing if that makes no difference."""
    return {"inside": inside} if getattr(model, "takes_inside", False) else {}


class Views:
    """The views of a protocol.

    Args:
      model: the network.
      preprocessing: of its input.
      protocol: how images are labelled.
      divisible: gives the next side that divides over the devices and by the network's stride.
    """

    def __init__(
        self, model: Network, preprocessing: Preprocessing, protocol: Protocol, divisible: Callable[[float], int]
    ):
        self._model, self._preprocessing, self._protocol, self._divisible = model, preprocessing, protocol, divisible
        self._temperature = protocol.temperature or 1.0

    def scored(self, variables: dict[str, PyTree], images: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What decides the labels of canvases, and the probabilities: each float32 [B, H, W, C].

        Args:
          variables: of the model.
          images: uint8 [B, H, W, 3], or bands.
          sizes: int32 [B, 2], how many rows and columns of each are the image; the rest is padding.
        """
        if tuple(self._protocol.scales) == (1.0,) and not self._protocol.flip:
            inside = inside_of(self._model, _from_corner(sizes))
            scores: Any = self._model.apply(variables, normalize(images, self._preprocessing), train=False, **inside)
            return scores, self._probabilities(scores)  # labels need no softmax
        probabilities = self.average(variables, images, sizes)
        return probabilities, probabilities

    def average(self, variables: dict[str, PyTree], images: jax.Array, sizes: jax.Array) -> jax.Array:
        """The mean of all views' probabilities, float32 [B, H, W, C]; arguments as of `scored`."""
        scales, is_mirrored = self._protocol.scales, self._protocol.flip
        images = normalize(images, self._preprocessing)
        batch, height, width, channels = images.shape
        whole = _from_corner(sizes)
        total: Any = 0.0
        for scale in scales:
            view, inside = images, whole
            if is_mirrored:  # beside its image, so that both are on one device
                view = jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(2 * batch, *images.shape[1:])
                inside = jnp.stack([whole, _mirrored(whole, width)], axis=1).reshape(2 * batch, 4)
            shape = (height, width)
            if scale != 1:
                shape = (self._divisible(round(height * scale)), self._divisible(round(width * scale)))
            view = jax.image.resize(view, (len(view), *shape, channels), "linear")
            part = inside_of(self._model, rescaled(inside, (height, width), shape))
            logits: Any = self._model.apply(variables, view, train=False, **part)
            logits = jax.image.resize(logits, (len(view), height, width, self._model.num_classes), "linear")
            probabilities = self._probabilities(logits).reshape(batch, -1, *logits.shape[1:])
            total += probabilities[:, 0]
            if is_mirrored:
                total += probabilities[:, 1, :, ::-1]
        return total / (len(scales) * (1 + is_mirrored))

    def _probabilities(self, logits: jax.Array) -> jax.Array:
        scores = logits if self._temperature == 1 else logits / self._temperature
        return jax.nn.sigmoid(scores) if self._protocol.multi_label else jax.nn.softmax(scores)


def _from_corner(sizes: jax.Array) -> jax.Array:
    """The parts of canvases, int32 [B, 4], that images of these sizes take up."""
    return jnp.concatenate([jnp.zeros_like(sizes), sizes], axis=1)


def _mirrored(inside: jax.Array, width: int) -> jax.Array:
    """The parts when canvases of a width are mirrored left and right."""
    top, left, bottom, right = inside.T
    return jnp.stack([top, width - right, bottom, width - left], axis=1)
