"""Large Kernel Matters (Peng et al., CVPR 2017) in JAX/Flax.

The public face:

* `build_model`: the network, a pure `flax.linen.Module`.
* `load_backbone`: pretrained ResNet weights, as torchvision, timm and Hugging Face name them, into its variables.
* `reestimate_statistics`: batch norm's statistics again, from images of your own.
* `load`: a trained model from a workdir or an exported file, as a `Segmenter` with ``predict(image)``.
* `crf`: a fully connected CRF that refines class probabilities.
* `UserError`: what every mistake of a caller's files or configs raises, a `ValueError`.

Importing the package imports none of these: each is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcn_jax import crf
    from gcn_jax.checkpoints.pretrained import load_backbone
    from gcn_jax.errors import UserError
    from gcn_jax.inference.segmenter import Segmenter, load
    from gcn_jax.models import build_model
    from gcn_jax.training.batch_norm import reestimate_statistics

__all__ = ["Segmenter", "UserError", "build_model", "crf", "load", "load_backbone", "reestimate_statistics"]

_HOMES = {
    "Segmenter": "gcn_jax.inference.segmenter",
    "UserError": "gcn_jax.errors",
    "build_model": "gcn_jax.models",
    "load": "gcn_jax.inference.segmenter",
    "load_backbone": "gcn_jax.checkpoints.pretrained",
    "reestimate_statistics": "gcn_jax.training.batch_norm",
}


def __getattr__(name: str) -> Any:
    """Imports what a public name stands for when it is first used (PEP 562)."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in ("crf", "models"):
        value = importlib.import_module(f"gcn_jax.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
