"""A run's config: every key with its default, and what a value may be.

A recipe in ``configs/`` starts from `default` and changes what differs; any value can then be set on the command
line: ``--config.batch_size=8``. `validate` runs before anything else does.
"""

from gcn_jax.config.checks import validate
from gcn_jax.config.defaults import default
from gcn_jax.config.settings import model_from

__all__ = ["default", "model_from", "validate"]
