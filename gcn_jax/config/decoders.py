"""What a config may ask of a decoder: statistics of its norms, a second head's loss, a CRF on top of it."""

import math

import ml_collections

from gcn_jax.config.defaults import default
from gcn_jax.crf import LAYERS
from gcn_jax.data import bands
from gcn_jax.errors import UserError
from gcn_jax.models import DECODERS, Network


def check_decoder(config: ml_collections.ConfigDict, model: Network) -> None:
    """Raises `UserError` for statistics of one value, or of a decoder without norms; for a loss without its head."""
    decoder, reestimate = config.model.decoder, config.reestimate
    if config.batch_size == 1:
        _check_one_image(config, model)
    if DECODERS[decoder].has_means and reestimate.batches and reestimate.batch_size == 1:
        raise UserError(f"config.reestimate.batch_size=1: must be 2 or more with config.model.decoder={decoder}")
    has_norms = hasattr(model.decoder, "norm") or config.model.auxiliary
    if config.model.decoder_norm and not has_norms:
        raise UserError(
            f"config.model.decoder_norm={config.model.decoder_norm} has no effect without a config.model.decoder with "
            f"norms, or config.model.auxiliary=True; {decoder} has none"
        )
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


def _check_one_image(config: ml_collections.ConfigDict, model: Network) -> None:
    """Raises `UserError` for a norm that would take the variance of one value, in batches of one image."""
    decoder, size = config.model.decoder, config.data.size
    is_pixel, in_decoder = size == model.backbone.output_stride, getattr(model.decoder, "norm", "") == "train"
    mean = f"config.model.decoder={decoder} normalises the mean of each image"
    pixel = f"normalises res-5, one pixel of config.data.size={size}"
    for key, is_one, what in (
        ("decoder_norm", in_decoder and DECODERS[decoder].has_means, mean),
        ("norm", is_pixel and config.model.norm == "train", f"config.model.norm=train {pixel}"),
        ("decoder_norm", is_pixel and in_decoder, f"config.model.decoder_norm=train {pixel}"),
    ):
        if is_one:
            raise UserError(
                f"config.batch_size=1: {what}, which has no variance in a batch of one; set config.batch_size to 2 or "
                f"more, or config.model.{key}=frozen"
            )


def check_crf(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` for a CRF inside the network that is unknown, or that cannot go with the rest."""
    model, rates, known = config.model, config.optimizer.crf_rates, default()
    if model.crf not in ("", *LAYERS):
        raise UserError(f"config.model.crf must be one of {', '.join(LAYERS)}, or empty. Got {model.crf!r}")
    iterations = model.crf_iterations
    if len(iterations) != 2 or not all(isinstance(number, int) and number >= 0 for number in iterations):
        raise UserError(f"config.model.crf_iterations must be two whole numbers, such as 5,10. Got {iterations!r}")
    if len(rates) != 2 or not all(0 <= rate < math.inf for rate in rates):
        raise UserError(f"config.optimizer.crf_rates must be two numbers, 0 or more, such as 10,1. Got {rates!r}")
    if model.crf != "rnn" and tuple(iterations) != known.model.crf_iterations:
        raise UserError(f"config.model.crf_iterations={iterations!r} has no effect without config.model.crf=rnn")
    if not model.crf and tuple(rates) != known.optimizer.crf_rates:
        raise UserError(
            f"config.optimizer.crf_rates={rates!r} has no effect without config.model.crf={' or '.join(LAYERS)}"
        )
    for is_set, what in (
        (config.eval.crf, "config.eval.crf, a second CRF: leave one of them out"),
        (config.data.multi_label, "config.data.multi_label: it gives each pixel one class"),
        (bands.parse(config.data.channels), "bands in config.data.channels: it needs colours, RGB or BGR"),
    ):
        if model.crf and is_set:
            raise UserError(f"config.model.crf={model.crf} does not go with {what}")
