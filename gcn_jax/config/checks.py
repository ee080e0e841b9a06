"""What a config may be, checked before anything else is done."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ml_collections

from gcn_jax import crf
from gcn_jax.config import decoders, serving, settings
from gcn_jax.config.defaults import FOLDERS, RETIRED, default
from gcn_jax.console import say
from gcn_jax.data import bands, outputs
from gcn_jax.data.mixing import MIXES
from gcn_jax.data.sources import open_folder, uses_folder
from gcn_jax.errors import UserError
from gcn_jax.files import HUB, check_is_local
from gcn_jax.models.backbones.resnet import STEMS, STRIDE
from gcn_jax.training import loggers, losses
from gcn_jax.training.loss import REDUCTIONS
from gcn_jax.training.optimizer import DECAYED, OPTIMIZERS, SCHEDULES


def _positive(value: float) -> bool:
    return value > 0


def _not_negative(value: float) -> bool:
    return value >= 0


def _fraction(value: float) -> bool:
    return 0 <= value < 1


def _pairs_of_fractions(values: Sequence[float]) -> bool:
    return len(values) > 0 and len(values) % 2 == 0 and all(0 <= value <= 1 for value in values)


def _numbers(value: Collection[Any]) -> bool:
    return len(value) > 0 and all(isinstance(number, int | float) and math.isfinite(number) for number in value)


def _parses(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def is_right(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return is_right


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return choices.__contains__, f"one of {', '.join(choices)}"


_OR_BANDS = "or one for each band of config.data.channels"
_POSITIVE = (_positive, "positive")
_NOT_NEGATIVE = (_not_negative, "0 or more")
_BELOW_ONE = (_fraction, "at least 0 and below 1")
_ALL_POSITIVE = (lambda values: len(values) > 0 and min(values) > 0, "one or more numbers, above 0")
_NONE_NEGATIVE = (lambda values: len(values) > 0 and min(values) >= 0, "one or more numbers, at least 0")

# Key -> what its value must fulfil, and the same in words. Keys of `model` are checked by `build_model`.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = serving.CHECKS | {
    "num_steps": _POSITIVE,
    "batch_size": _POSITIVE,
    "seed": _NOT_NEGATIVE,
    "init_stem": _one_of(*STEMS),
    "init_scores": _one_of("drawn", "zero"),
    "log_every": _POSITIVE,
    "eval_every": _POSITIVE,
    "checkpoint_every": _POSITIVE,
    "keep_checkpoints": _POSITIVE,
    "loggers": (_parses(loggers.parse), loggers.FORM),
    "data.size": (lambda value: value > 0 and value % STRIDE == 0, f"a positive multiple of {STRIDE}"),
    "data.scale": (lambda value: len(value) == 2 and 0 < value[0] <= value[1], "two numbers, 0 < low <= high"),
    "data.color_jitter": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "data.rotate": (lambda value: 0 <= value <= 180, "from 0 to 180 degrees"),
    "data.blur": (lambda value: 0 <= value <= 100, "from 0 to 100 pixels"),
    "data.noise": (lambda value: 0 <= value <= 255, "from 0 to 255"),
    "data.max_class_share": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "data.mix": (lambda value: value in ("", *MIXES), f"one of {', '.join(MIXES)}, or empty"),
    "data.mix_share": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "data.rare_share": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "data.mean": (_numbers, f"three numbers, RGB, 0-255, {_OR_BANDS}"),
    "data.std": (lambda value: _numbers(value) and min(value) > 0, f"three positive numbers, RGB, 0-255, {_OR_BANDS}"),
    "data.channels": (_parses(bands.parse), bands.FORM),
    "data.depth": (lambda value: value in ("", *bands.KINDS), f"one of {', '.join(bands.KINDS)}, or empty"),
    "data.first_id": (lambda value: 0 <= value <= 255, "0-255"),
    "data.exif": _one_of("apply", "ignore"),
    "data.white": (lambda value: 0 <= value <= 65535, "0-65535"),
    "data.num_threads": _NOT_NEGATIVE,
    "data.prefetch": _NOT_NEGATIVE,
    "loss.name": (_parses(losses.parse), losses.FORM),
    "loss.class_weights": (
        _parses(losses.parse_weights),
        f"numbers such as 1,2.5,1, one of {', '.join(losses.WEIGHTS)}, or empty",
    ),
    "loss.label_smoothing": _BELOW_ONE,
    "loss.hardest": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "loss.hardest_min": _NOT_NEGATIVE,
    "loss.focal_gamma": _NOT_NEGATIVE,
    "loss.auxiliary": (lambda value: 0 < value < math.inf, "positive; config.model.auxiliary=False takes none"),
    "optimizer.name": _one_of(*OPTIMIZERS),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.schedule": _one_of(*SCHEDULES),
    "optimizer.poly_power": _POSITIVE,
    "optimizer.drops": (lambda values: all(0 < value < 1 for value in values), "shares of the training, as 0.6,0.8"),
    "optimizer.warmup_steps": _NOT_NEGATIVE,
    "optimizer.betas": (
        lambda values: len(values) in (0, 2) and all(0 <= value < 1 for value in values),
        "two numbers, at least 0 and below 1, or empty",
    ),
    "optimizer.momentum": _BELOW_ONE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.backbone_rate": (_positive, "positive; to fix the backbone set config.model.freeze=res5"),
    "optimizer.layer_decay": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "optimizer.decay": _one_of(*DECAYED),
    "optimizer.loss": _one_of(*REDUCTIONS),
    "optimizer.accumulate": _POSITIVE,
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "optimizer.ema_decay": _BELOW_ONE,
    "eval.batch_size": _POSITIVE,
    "eval.scales": (lambda value: len(value) > 0 and min(value) > 0, "one or more positive numbers, such as 0.75,1.0"),
    "eval.window": (lambda value: value == 0 or value >= STRIDE, f"at least {STRIDE} pixels, or 0 for whole images"),
    "eval.stride": (_not_negative, "positive, or 0 for two thirds of the window"),
    "eval.crf": (_parses(crf.parse), crf.FORMAT),
    "eval.temperature": (lambda value: 0 <= value < math.inf, "positive, or 0 for what is kept with the model"),
    "eval.checkpoint": _one_of("best", "latest"),
    "eval.num_pictures": _NOT_NEGATIVE,
    "stop.patience": _NOT_NEGATIVE,
    "predict.outputs": (_parses(outputs.parse), outputs.FORM),
    "predict.bits": (lambda value: value in (8, 16), "8 or 16"),
    "predict.format": _one_of("masks", "voc", "cityscapes"),
    "export.licence": (lambda value: bool(re.fullmatch(r"[\w.+-]*", value)), "a name, such as apache-2.0, or empty"),
    "crf_search.num_images": (_not_negative, "positive, or 0 for all"),
    "crf_search.iterations": _NONE_NEGATIVE,
    "crf_search.position_weight": _NONE_NEGATIVE,
    "crf_search.position_sigma": _ALL_POSITIVE,
    "crf_search.bilateral_weight": _NONE_NEGATIVE,
    "crf_search.sigma_xy": _ALL_POSITIVE,
    "crf_search.sigma_rgb": _ALL_POSITIVE,
    "reestimate.batches": _NOT_NEGATIVE,
    "reestimate.part": _one_of("all", "decoder"),
    "reestimate.batch_size": _POSITIVE,
    "receptive_field.pixels": (_pairs_of_fractions, "pairs of row and column, each from 0 to 1, such as 0.5,0.5"),
    "receptive_field.images": _POSITIVE,
    "mesh.data": (lambda value: value == -1 or value > 0, "positive, or -1 for all devices that are left"),
    "mesh.space": _POSITIVE,
    "distributed.coordinator": (lambda value: bool(re.fullmatch(r"(.+:\d+)?", value)), "HOST:PORT, or empty"),
    "distributed.num_processes": _POSITIVE,
    "distributed.process_id": _NOT_NEGATIVE,
    "distributed.timeout": _POSITIVE,
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks all values, and sets ``data.classes`` to what a `folder` says, unless the user did.

    Raises:
      UserError: naming the key or file that is wrong.
    """
    check_keys(config)
    check_values(config)
    if config.optimizer.accumulate > config.num_steps:
        raise UserError(f"config.optimizer.accumulate={config.optimizer.accumulate}: more than config.num_steps")
    _check_combinations(config)
    group = config.distributed
    if group.process_id >= group.num_processes:
        raise UserError(
            f"config.distributed.process_id={group.process_id}: must be below config.distributed.num_processes="
            f"{group.num_processes}"
        )
    if group.num_processes > 1 and not group.coordinator:
        raise UserError("config.distributed.coordinator is empty: set it to HOST:PORT, a free port of process 0's host")
    data = settings.datasets(config)
    if uses_folder(data) and not data.classes:
        labelled = open_folder(data)
        config.data.classes = labelled.class_lines(data.first_id)
        if not labelled.has_classes_file:
            first, last = data.first_id, data.first_id + len(config.data.classes) - 1
            count = len(config.data.classes)
            say(f"{config.data_dir} holds no classes.txt; it has {count} classes, the ids {first}-{last} of its masks")
    decoders.check_decoder(config, settings.model_from(config))


def _check_combinations(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` for values that mean nothing together: what the user asked for would not happen."""
    data, loss, optimizer, predict = config.data, config.loss, config.optimizer, config.predict
    patience, evaluations = config.stop.patience, math.ceil(config.num_steps / config.eval_every)
    names = set(outputs.parse(predict.outputs))
    grey = names & set(outputs.GREY)
    terms = {term for _, term in losses.parse(loss.name)}
    per_pixel = terms & {"cross_entropy", "focal"}
    in_name = "in config.loss.name"
    for key, is_set, has_effect, needed in (
        ("data.mix", data.mix, data.mix_share, "config.data.mix_share above 0"),
        ("data.mix_share", data.mix_share, data.mix, f"config.data.mix={' or '.join(MIXES)}"),
        ("loss.class_weights", loss.class_weights, per_pixel, f"cross_entropy or focal {in_name}"),
        ("loss.label_smoothing", loss.label_smoothing, "cross_entropy" in terms, f"cross_entropy {in_name}"),
        ("loss.hardest", loss.hardest < 1, per_pixel, f"cross_entropy or focal {in_name}"),
        ("loss.hardest_min", loss.hardest_min, loss.hardest < 1, "config.loss.hardest below 1"),
        ("optimizer.loss", optimizer.loss == "sum", terms <= per_pixel, f"cross_entropy or focal alone {in_name}"),
        ("init_stem", config.init_stem != "mean", bands.parse(config.data.channels), "bands in config.data.channels"),
        ("optimizer.betas", optimizer.betas, optimizer.name != "sgd", "config.optimizer.name=adamw or lion"),
        ("optimizer.warmup_steps", optimizer.warmup_steps, optimizer.schedule != "one_cycle", "another schedule"),
        ("stop.patience", patience, patience + 1 < evaluations, "more evaluations: lower config.eval_every"),
        ("predict.bits", predict.bits != 8, grey, "confidence or entropy in config.predict.outputs"),
        (
            "predict.outputs",
            names not in ({"mask"}, {"mask", "overlay"}),
            predict.format == "masks",
            "config.predict.format=masks",
        ),
    ):
        if is_set and not has_effect:
            raise UserError(f"config.{key}={_value(config, key)!r} has no effect without {needed}")


def _check_multi_label(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` for values that have no meaning where a pixel may have several classes."""
    odd = [name for name in outputs.parse(config.predict.outputs) if name in outputs.OF_ONE_CLASS]
    for key, is_set, advice in (
        ("data.first_id", config.data.first_id, "each class has masks of its own, of 0 and 1"),
        ("eval.crf", config.eval.crf, "the CRF gives each pixel one class"),
        ("model.decoder", config.model.decoder == "lrr", "its masks are of one class a pixel"),
        ("predict.outputs", odd, f"{' and '.join(odd)} are of one class a pixel; take probabilities"),
        ("predict.format", config.predict.format != "masks", "the server takes masks of one class a pixel"),
    ):
        if is_set:
            raise UserError(f"config.{key}={_value(config, key)!r} does not go with config.data.multi_label: {advice}")


def check_keys(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` naming a key that no part of this version reads, such as a misspelt one."""

    def check(group: ml_collections.ConfigDict, known: ml_collections.ConfigDict, prefix: str) -> None:
        for key in group:
            if key not in known:
                raise UserError(unknown_key(f"{prefix}{key}"))
            if isinstance(known[key], ml_collections.ConfigDict):
                check(group[key], known[key], f"{prefix}{key}.")

    check(config, default(), "")


def unknown_key(key: str) -> str:
    """What to tell of a key that is not known, such as "predict.crf"."""
    if key in RETIRED:
        return f"config.{key} was dropped; set config.{RETIRED[key]}, which predict takes, too"
    return f"config.{key}: unknown key; gcn_jax/config/defaults.py lists all keys"


def check_values(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` naming the first key with a wrong value, the value and what it should be."""
    for key in FOLDERS:
        if not (key == "init_from" and config[key].startswith(HUB)):
            check_is_local(f"config.{key}", config[key])
    for key, (is_right, requirement) in _CHECKS.items():
        value = _value(config, key)
        try:
            is_fine = is_right(value)
        except TypeError:  # a tuple may hold anything
            is_fine = False
        if not is_fine:
            raise UserError(f"config.{key} must be {requirement}. Got {value!r}")
    _check_bands(config)
    decoders.check_crf(config)
    if config.data.multi_label:
        _check_multi_label(config)


def _check_bands(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` for values that do not fit the number of channels, or that photographs alone can have."""
    data, chosen, to_measure = config.data, bands.parse(config.data.channels), settings.unmeasured(config)
    needed = "three numbers, RGB, 0-255"
    if chosen:
        needed = f"{len(chosen)} numbers, one for each band of config.data.channels={data.channels}"
    for key in ("mean", "std"):
        if key not in to_measure and len(data[key]) != (len(chosen) or 3):
            raise UserError(f"config.data.{key} must be {needed}. Got {tuple(data[key])!r}")
    if chosen and config.eval.crf:
        raise UserError(f"config.eval.crf={config.eval.crf}: the CRF needs colours, config.data.channels=RGB or BGR")
    if chosen and data.noise:
        raise UserError(
            f"config.data.noise={data.noise}: of RGB alone, whose values are 0-255; bands have other ranges"
        )
    if chosen and data.white:
        raise UserError(f"config.data.white={data.white} has no effect on bands, which are not scaled")
    if data.depth and not chosen:
        raise UserError(f"config.data.depth={data.depth} has no effect without bands in config.data.channels")


def _value(config: ml_collections.ConfigDict, key: str) -> Any:
    group, _, name = key.rpartition(".")
    return config[group][name] if group else config[name]
