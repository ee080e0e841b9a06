"""RefineNet (Lin et al., CVPR 2017), figures 2 and 3, with the numbers of its released code."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ..backbones.resnet import STAGES
from ..layers import Conv
from ..ops.convolution import Dtype
from ..ops.sampling import max_around, resize

LINKS = 4  # of chained residual pooling; 2 in the paper's figure
OUTPUT_UNITS = 3  # residual units after it
PUBLISHED = 2048  # res-5's channels in the paper


class RefineNet(nn.Module):
    """From res-5 to res-2: a stage's features are adapted and meet what comes from the coarser stages.

    Each block is residual units, fusion, chained residual pooling and residual units, without norms. Widths are a
    fourth of res-5's channels for res-5, 512, an eighth for the others, 256. Kernels start as N(0, 0.01), as in the
    authors' code: since there are no norms, and pooling a maximum makes it larger, scores else start far from 0; other
    widths have the same gains. Our choices: no dropout, since our step draws no random numbers; enlargement as
    everywhere here (not with aligned corners).
    """

    num_classes: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: dict[str, jax.Array], size: tuple[int, int], train: bool = False) -> jax.Array:
        """The stages' features -> scores [B, *size, num_classes]."""
        channels = features["res5"].shape[-1]
        wide = max(channels // 4, 2)

        def conv(x, features, name, use_bias=False):
            gain = 0.01**2 * 9 * x.shape[-1] * PUBLISHED / channels
            return Conv(features, (3, 3), use_bias=use_bias, dtype=self.dtype, gain=gain, name=name)(x)

        def residual_unit(x, name):
            y = conv(nn.relu(x), x.shape[-1], f"{name}_conv1", use_bias=True)
            return x + conv(nn.relu(y), x.shape[-1], f"{name}_conv2")

        def residual_units(x, count, name):
            for i in range(1, count + 1):
                x = residual_unit(x, f"{name}{i}")
            return x

        def fused(coarse, fine, name):
            width = min(coarse.shape[-1], fine.shape[-1])
            coarse, fine = conv(coarse, width, f"{name}_coarse"), conv(fine, width, f"{name}_fine")
            return resize(coarse, fine.shape[1:3]) + fine

        def chained_pooling(x, name):
            x = link = nn.relu(x)
            for i in range(1, LINKS + 1):
                link = conv(max_around(link, 5), x.shape[-1], f"{name}{i}")
                x = x + link
            return x

        refined = None
        for stage in reversed(STAGES):
            x = conv(features[stage], wide if stage == "res5" else wide // 2, f"adapt_{stage}")
            x = residual_units(x, 2, f"unit_{stage}_")
            if refined is not None:
                x = fused(refined, x, f"fuse_{stage}")
            x = chained_pooling(x, f"pool_{stage}_")
            refined = residual_units(x, OUTPUT_UNITS, f"output_{stage}_")
        return resize(conv(refined, self.num_classes, "score", use_bias=True), size)
