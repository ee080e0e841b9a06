"""What a config may ask of a decoder: statistics of its norms, a second head's loss."""

import ml_collections

from gcn_jax.config.defaults import default
from gcn_jax.errors import UserError
from gcn_jax.models import DECODERS, Network


def check_decoder(config: ml_collections.ConfigDict, model: Network) -> None:
    """Raises `UserError` for statistics of one value, or of a decoder without norms; for a loss without its head."""
    decoder, reestimate = config.model.decoder, config.reestimate
    is_one = DECODERS[decoder].has_means or config.data.size == model.backbone.output_stride
    if is_one and config.model.norm == "train" and config.batch_size == 1:
        what = f"config.model.decoder={decoder} normalises the mean of each image"
        if not DECODERS[decoder].has_means:
            what = f"config.model.norm=train normalises res-5, one pixel of config.data.size={config.data.size}"
        raise UserError(
            f"config.batch_size=1: {what}, which has no variance in a batch of one; set config.batch_size to 2 "
            "or more, or config.model.norm=frozen"
        )
    if DECODERS[decoder].has_means and reestimate.batches and reestimate.batch_size == 1:
        raise UserError(f"config.reestimate.batch_size=1: must be 2 or more with config.model.decoder={decoder}")
    has_norms = hasattr(model.decoder, "norm") or config.model.auxiliary
    if reestimate.part == "decoder" and not (reestimate.batches and has_norms):
        raise UserError(
            "config.reestimate.part='decoder' has no effect without config.reestimate.batches above 0 and a "
            f"config.model.decoder with norms; {decoder} has {'some' if has_norms else 'none'}"
        )
    has_others = config.model.auxiliary or config.model.fused_scales or decoder == "lrr"
    if config.loss.auxiliary != default().loss.auxiliary and not has_others:
        raise UserError(
            f"config.loss.auxiliary={config.loss.auxiliary} has no effect without config.model.auxiliary=True, "
            "fused_scales or decoder=lrr"
        )
