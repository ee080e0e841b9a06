"""The segmenter: a backbone, and a decoder that makes scores of its features."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from .backbones.resnet import STRIDE, ResNet
from .ops.convolution import Dtype
from .ops.sampling import rescaled, resize
from .ops.xla import convolutions


class Network(nn.Module):
    """A backbone, and one of `DECODERS` on the features of its stages.

    The decoder's variables lie beside the backbone: ``{"backbone": ..., "gcn_res2": ..., "gcn_res3": ..., ...}``.

    Attributes:
      backbone: gives the features of its stages.
      decoder: makes scores of them.
      auxiliary: a second decoder, of training alone; None: there is none.
      fused_scales: the images are also scored at these scales, and the largest score of each class counts
        (DeepLab-v2); in training those of each scale have a loss, too.
      crf: refines the logits by the images, one of `gcn_jax.crf.LAYERS`; None: nothing does.
      dtype, convolutions, channels: see `build_model`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from gcn_jax.models import build_model, init_variables
      >>> model = build_model(num_classes=3, backbone="resnet14", width=4, kernel_size=3)
      >>> variables = init_variables(model, seed=0)
      >>> jax.jit(model.apply)(variables, jnp.zeros((1, 64, 48, 3))).shape
      (1, 64, 48, 3)
    """

    backbone: ResNet
    decoder: nn.Module
    auxiliary: nn.Module | None = None
    dtype: Dtype = jnp.float32
    convolutions: str = "fast"
    channels: int = 3
    fused_scales: tuple[float, ...] = ()
    crf: nn.Module | None = None

    @property
    def takes_inside(self) -> bool:
        """Whether it matters what is padding: the decoder takes means or maxima of whole images."""
        return getattr(self.decoder, "takes_inside", False)

    @property
    def num_classes(self) -> int:
        """Channels of the logits."""
        return self.decoder.num_classes

    def setup(self) -> None:
        nn.share_scope(self, self.decoder)

    def __call__(self, images: jax.Array, train: bool = False, inside: jax.Array | None = None) -> jax.Array:
        """Scores every pixel.

        Args:
          images: float [B, H, W, channels], normalised; H and W at least 32.
          train: use (and update, if mutable) the batch's statistics where the norm is "train"; keep the logits of a
            second head, of each scale and of a decoder's levels in the collection "auxiliary", if mutable.
          inside: int32 [B, 4], the part of the pixels that an image takes up: its first row and column, and the row and
            column behind its last. A decoder with ``takes_inside`` leaves the rest, padding, out of its means and
            maxima. None: all of it.

        Returns:
          Logits, float32 [B, H, W, num_classes].

        Raises:
          ValueError: if the images are not [B, H, W, channels] or a side is below 32.
        """
        features = self.features(images, train)
        with convolutions(self.convolutions):
            if self.auxiliary is not None and (train or self.is_initializing()):
                self._keep(self.auxiliary(features, images.shape[1:3], train).astype(jnp.float32))
            logits = self._scored(features, images.shape[1:3], train, inside)
            if self.fused_scales:
                logits = self._fused(logits, images, train, inside)
            return logits if self.crf is None else self.crf(images, logits, train)

    def features(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The features that the scores are made of: ``model.apply(variables, images, method="features")``.

        Args:
          images: float [B, H, W, channels], normalised; H and W at least 32.
          train: use (and update, if mutable) the batch's statistics where the norm is "train".

        Returns:
          "stem", "res2", "res3", "res4" and "res5": [B, H', W', C] at strides of 4, 4, 8, 16 and 32, or as the output
          stride is, of the type that the network computes in; with `fused_scales` those of the images as they are.

        Raises:
          ValueError: if the images are not [B, H, W, channels] or a side is below 32.
        """
        if images.ndim != 4 or images.shape[-1] != self.channels:
            raise ValueError(f"images must be [B, H, W, {self.channels}]. Got {images.shape=}")
        if any(side < STRIDE for side in images.shape[1:3]):  # each by itself: symbolic sides have no least
            raise ValueError(f"images must be at least {STRIDE} pixels high and wide. Got {images.shape=}")
        return self.backbone(images, train)

    def _scored(
        self, features: dict[str, jax.Array], size: Sequence[int], train: bool, inside: jax.Array | None
    ) -> jax.Array:
        """The decoder's scores, [B, *size, num_classes]; inside is the part of the images that the features are of."""
        if inside is not None:
            stride = self.backbone.output_stride
            features = {**features, "inside": rescaled(inside, (stride, stride), (1, 1))}
        return self.decoder(features, size, train).astype(jnp.float32)

    def _fused(self, logits: jax.Array, images: jax.Array, train: bool, inside: jax.Array | None) -> jax.Array:
        """The maxima of the logits and of those at the other scales."""
        found = [logits]
        for scale in self.fused_scales:
            size = [max(round(side * scale), STRIDE) for side in images.shape[1:3]]
            features = self.backbone(resize(images, size), train)
            own = None if inside is None else rescaled(inside, images.shape[1:3], size)
            found.append(self._scored(features, images.shape[1:3], train, own))
        if train:
            for own in found:
                self._keep(own)
        return functools.reduce(jnp.maximum, found)

    def _keep(self, logits: jax.Array) -> None:
        """For the loss."""
        if not self.is_initializing():
            self.sow("auxiliary", "logits", logits)
