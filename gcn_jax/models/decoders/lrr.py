"""Laplacian pyramid reconstruction and refinement, LRR-4x (Ghiasi and Fowlkes, ECCV 2016), figure 2."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..layers import Conv, Reconstruction
from ..ops.convolution import Dtype
from ..ops.sampling import max_around, resize

STRIDES = {"res5": 8, "res4": 4, "res3": 2, "res2": 1}  # of the scores that a stage's coefficients make
MASK = 9  # side of the pooling that finds boundaries


class LRR(nn.Module):
    """Each stage gives coefficients of ten patterns a class, which make scores at four times its resolution.

    The coarsest scores are doubled again and again; where they change from class to class, the next stage's scores are
    added. In training the scores of each stage are compared with the truth, and so are two maps beside the coarsest,
    of the classes dilated and eroded by 32 pixels: they are kept in the collection "auxiliary".

    As in the authors' code coefficients start at 0, patterns are not learnt, and gradients pass through the masks. Our
    choices: ResNet's stages take the places of VGG's; the maxima and minima of the masks, as scores are, at a stage's
    own resolution; patterns start as cosines until `mask_patterns` gives those of the training data.
    """

    num_classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        patterns = Reconstruction(self.num_classes, name="patterns")
        scores: Any = None
        for stage, stride in STRIDES.items():
            own = self._scores(patterns, features[stage], f"score_{stage}", size, stride)
            if scores is None:
                self._compared(patterns, features[stage], size, train)
            else:
                scores = resize(scores, own.shape[1:3])
                own = scores + boundary_mask(scores) * own
            scores = own
            if train and stride > 1 and not self.is_initializing():
                self.sow("auxiliary", "logits", scores.astype(jnp.float32))
        return scores

    def _compared(self, patterns: nn.Module, x: jax.Array, size: tuple[int, int], train: bool) -> None:
        """Keeps the scores of dilated and of eroded classes, of training alone."""
        if train or self.is_initializing():
            for kind in ("dilated", "eroded"):
                scores = self._scores(patterns, x, f"auxiliary_{kind}", size, STRIDES["res5"])
                if not self.is_initializing():
                    self.sow("auxiliary", kind, scores.astype(jnp.float32))

    def _scores(self, patterns: nn.Module, x: jax.Array, name: str, size: tuple[int, int], stride: int) -> jax.Array:
        features = patterns.count * self.num_classes
        conv = Conv(features, (5, 5), use_bias=True, dtype=self.dtype, gain=0.0, name=name)
        rows, columns = (-(-side // stride) for side in size)
        return patterns(conv(x))[:, :rows, :columns]


def boundary_mask(scores: jax.Array) -> jax.Array:
    """How much each class's probability changes within `MASK` pixels: [B, H, W, C] -> the same, 0 to 1."""
    probabilities = nn.softmax(scores.astype(jnp.float32))
    return (max_around(probabilities, MASK) + max_around(-probabilities, MASK)).astype(scores.dtype)
