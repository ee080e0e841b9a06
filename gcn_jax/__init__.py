"""Large Kernel Matters (Peng et al., CVPR 2017) in JAX/Flax.

The public face:

* `build_model`: the network, a pure `flax.linen.Module`.
* `load_backbone`: pretrained ResNet weights, as torchvision, timm and Hugging Face name them, into its variables.
* `reestimate_statistics`: batch norm's statistics anew, from images of your own.
* `load`: a trained model from a workdir, as a `Segmenter` with ``predict(image)``.
* `UserError`: what every mistake of a caller's files or configs raises, a `ValueError`.
"""

from gcn_jax.checkpoints.pretrained import load_backbone
from gcn_jax.errors import UserError
from gcn_jax.inference.segmenter import Segmenter, load
from gcn_jax.models import build_model
from gcn_jax.training.batch_norm import reestimate_statistics

__all__ = ["Segmenter", "UserError", "build_model", "load", "load_backbone", "reestimate_statistics"]
