"""A fully connected CRF that refines the class probabilities of an image, usable without the rest of the package."""

from flax import linen as nn

from gcn_jax.crf.dense_crf import (
    FILTERS,
    LARGEST,
    LARGEST_EXACT,
    LEAST_PROBABILITY,
    MOST_VALUES,
    features,
    log_probabilities,
    mean_field,
    refine,
)
from gcn_jax.crf.params import FORMAT, Params, check_params, parse
from gcn_jax.crf.parsing import DeepParsing
from gcn_jax.crf.recurrent import RecurrentCRF

LAYERS: dict[str, type[nn.Module]] = {
    "rnn": RecurrentCRF,
    "dpn": DeepParsing,
}  # modules that refine a network's logits, see `gcn_jax.models.Network`

__all__ = [
    "FILTERS",
    "FORMAT",
    "LARGEST",
    "LARGEST_EXACT",
    "LAYERS",
    "LEAST_PROBABILITY",
    "MOST_VALUES",
    "DeepParsing",
    "Params",
    "RecurrentCRF",
    "check_params",
    "features",
    "log_probabilities",
    "mean_field",
    "parse",
    "refine",
]
