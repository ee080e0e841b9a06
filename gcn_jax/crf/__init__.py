"""A fully connected CRF that refines the class probabilities of an image, usable without the rest of the package."""

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

__all__ = [
    "FILTERS",
    "FORMAT",
    "LARGEST",
    "LARGEST_EXACT",
    "LEAST_PROBABILITY",
    "MOST_VALUES",
    "Params",
    "check_params",
    "features",
    "log_probabilities",
    "mean_field",
    "parse",
    "refine",
]
