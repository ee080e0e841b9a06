"""A fully connected CRF that refines the class probabilities of an image, usable without the rest of the package."""

from gcn_jax.crf.dense_crf import (
    FILTERS,
    FORMAT,
    LARGEST,
    LARGEST_EXACT,
    LEAST_PROBABILITY,
    MOST_VALUES,
    Params,
    check_params,
    features,
    log_probabilities,
    mean_field,
    parse,
    refine,
)

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
