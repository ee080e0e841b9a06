"""Every config value with its default, and every check of what the user wrote.

A recipe in ``configs/`` starts from `default` and changes what differs; any value can then be set on the command
line: ``--config.batch_size=8``. `validate` runs before anything else does.
"""

import json
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import ml_collections

from gcn_jax.data.folder import LabelledFolder
from gcn_jax.data.sources import spec_from, uses_folder
from gcn_jax.errors import UserError
from gcn_jax.logs import say
from gcn_jax.losses import REDUCTIONS
from gcn_jax.models import GCN, build_model
from gcn_jax.models.resnet import STRIDE
from gcn_jax.optim import DECAYED, SCHEDULES

# Means and standard deviations of ImageNet's RGB channels, 0-255, as torchvision states them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# What decides which tensors a model has and what they mean; equal in every checkpoint that a run may start from.
ARCHITECTURE = ("backbone", "width", "kernel_size", "boundary_refine", "strides_in")


def default() -> ml_collections.ConfigDict:
    """The paper's network and solver, with our choices where the paper is silent; data and length are a recipe's."""
    return ml_collections.ConfigDict(
        {
            "num_steps": 0,  # batches in all
            "batch_size": 1,  # images a step, over all devices
            "seed": 0,  # of initialisation, data order and augmentation
            "data_dir": "",  # where the official files are; empty: download them
            "init_from": "",  # a workdir, whose best weights the run starts from; empty: random initialisation
            "cache_dir": "~/.cache/gcn_jax",  # downloads, prepared records, compiled programs
            "log_every": 20,  # steps
            "eval_every": 5000,  # steps; an evaluation is also a checkpoint
            "checkpoint_every": 1000,  # steps
            "keep_checkpoints": 2,  # the newest; the best by mean IoU stays besides
            "model": {  # the arguments of `gcn_jax.build_model`
                "backbone": "resnet152",
                "width": 64,
                "kernel_size": 15,
                "boundary_refine": True,
                "strides_in": "v1.5",
                "norm": "frozen",
                "remat": False,
                "dtype": "float32",
            },
            "data": {
                "train": "",  # such as "sbd/train+voc_segmentation/train-voc_segmentation/val": see data/sources.py
                "eval": "",
                "classes": (),  # of a `folder`, as the lines of its classes.txt; empty: what the folder says
                "size": 512,  # training images are cropped and padded to size x size
                "flip": True,  # left and right, every second time; the paper's only augmentation
                "scale": (1.0, 1.0),  # the range of a random factor; beyond the paper, as the next two
                "place_anywhere": False,  # put images that are smaller than size anywhere in it, not at the top left
                "color_jitter": 0.0,  # brightness, contrast and saturation change by a factor of up to 1 +- this
                "mean": IMAGENET_MEAN,  # subtracted, per channel, RGB 0-255 (the paper subtracts the mean) ...
                "std": IMAGENET_STD,  # ... then divided by: our choice, what torchvision's weights expect
                "num_threads": 4,  # that read and decode
                "prefetch": 16,  # samples read ahead, or a batch a thread if that is more
            },
            "optimizer": {
                "learning_rate": 2.6e-5,  # FCN's 1e-10 on the summed loss of 512 x 512 pixels (our choice)
                "schedule": "fixed",  # or "poly"
                "poly_power": 0.9,
                "momentum": 0.99,
                "weight_decay": 5e-4,
                "decay": "all",  # or "kernels": what weight decay applies to
                "loss": "mean",  # over non-void pixels, or their "sum"
                "accumulate": 1,  # batches whose mean gradient makes one update
                "clip_norm": 0.0,  # of the gradient, global; 0: off
                "ema_decay": 0.0,  # of an exponential moving average of the parameters, then evaluated; 0: off
            },
            "eval": {  # how images are labelled, in training's evaluations, --mode=eval and predict
                "batch_size": 1,  # rounded up to a multiple of the mesh's data axis
                "scales": (1.0,),  # by which each image is resized; the probabilities are averaged
                "flip": False,  # also average over the mirrored image
                "window": 0,  # side of the overlapping windows in which images are taken, pixels; 0: whole, if possible
                "stride": 0,  # of the windows, at most; 0: two thirds of their side
                "checkpoint": "best",  # or "latest": what --mode=eval and predict use
                "num_pictures": 4,  # of the evaluations in training
            },
            "predict": {
                "format": "masks",  # or "voc", "cityscapes": the archive that these evaluation servers take
            },
            "mesh": {"data": -1, "space": 1},  # devices over batch rows and over image rows; -1: all that are left
        }
    )


def _positive(value: float) -> bool:
    return value > 0


def _not_negative(value: float) -> bool:
    return value >= 0


def _fraction(value: float) -> bool:
    return 0 <= value < 1


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return choices.__contains__, f"one of {', '.join(choices)}"


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("num_steps", "batch_size", "log_every", "eval_every"), (_positive, "positive")),
    **dict.fromkeys(("checkpoint_every", "keep_checkpoints"), (_positive, "positive")),
    **dict.fromkeys(("data.num_threads", "data.prefetch", "eval.num_pictures"), (_not_negative, "0 or more")),
    **dict.fromkeys(("optimizer.weight_decay", "optimizer.clip_norm", "seed"), (_not_negative, "0 or more")),
    **dict.fromkeys(("optimizer.momentum", "optimizer.ema_decay"), (_fraction, "at least 0 and below 1")),
    **dict.fromkeys(("optimizer.learning_rate", "optimizer.poly_power"), (_positive, "positive")),
    **dict.fromkeys(("optimizer.accumulate", "eval.batch_size", "mesh.space"), (_positive, "positive")),
    "mesh.data": (lambda value: value == -1 or value > 0, "positive, or -1 for all devices that are left"),
    "data.size": (lambda value: value > 0 and value % STRIDE == 0, f"a positive multiple of {STRIDE}"),
    "data.scale": (lambda value: len(value) == 2 and 0 < value[0] <= value[1], "two numbers, 0 < low <= high"),
    "data.color_jitter": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "data.mean": (lambda value: len(value) == 3, "three numbers, RGB, 0-255"),
    "data.std": (lambda value: len(value) == 3 and min(value) > 0, "three positive numbers, RGB, 0-255"),
    "optimizer.schedule": _one_of(*SCHEDULES),
    "optimizer.decay": _one_of(*DECAYED),
    "optimizer.loss": _one_of(*REDUCTIONS),
    "eval.checkpoint": _one_of("best", "latest"),
    "eval.scales": (lambda value: len(value) > 0 and min(value) > 0, "one or more positive numbers, such as 0.75,1.0"),
    "eval.window": (lambda value: value == 0 or value >= STRIDE, f"at least {STRIDE} pixels, or 0 for whole images"),
    "eval.stride": (_not_negative, "positive, or 0 for two thirds of the window"),
    "predict.format": _one_of("masks", "voc", "cityscapes"),
}


def check_values(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` naming the first key with a wrong value, the value and what it should be."""
    for key, (is_right, requirement) in _CHECKS.items():
        if not is_right(_value(config, key)):
            raise UserError(f"config.{key} must be {requirement}. Got {_value(config, key)!r}")


def _value(config: ml_collections.ConfigDict, key: str) -> Any:
    group, _, name = key.rpartition(".")
    return config[group][name] if group else config[name]


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks all values, and sets ``data.classes`` to what a `folder` says, unless the user did.

    Raises:
      UserError: naming the key or file that is wrong.
    """
    check_values(config)
    if config.optimizer.accumulate > config.num_steps:
        raise UserError(f"config.optimizer.accumulate={config.optimizer.accumulate}: more than config.num_steps")
    if uses_folder(config) and not config.data.classes:
        labelled = LabelledFolder(config)
        config.data.classes = labelled.class_lines()
        if not labelled.has_classes_file:
            count = len(config.data.classes)
            say(f"{config.data_dir} holds no classes.txt; it has {count} classes, the ids 0-{count - 1} of its masks")
    model_from(config)


def of_trained(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, given: Collection[str]
) -> ml_collections.ConfigDict:
    """The config to apply a workdir's model with.

    Args:
      config: of this run.
      workdir: of the run that trained the model.
      given: keys that the user set on the command line, such as "model.width".

    Returns:
      A copy of `config` where all that the trained model depends on is as it was in its training.

    Raises:
      UserError: if the user asked for another model, or the data have other classes.
    """
    saved, settled = load(workdir), config.copy_and_resolve_references()
    learned = [f"model.{name}" for name in saved.model] + [
        f"data.{name}" for name in ("classes", "size", "mean", "std")
    ]
    for key in learned:
        group, name = key.split(".")
        if key not in given:
            settled[group][name] = saved[group][name]
    validate(settled)
    check_same_model(settled, workdir, "--workdir", "it can only be used as it was trained")
    return settled


def model_from(config: ml_collections.ConfigDict) -> GCN:
    """The model of a config; raises `UserError` naming the key of a wrong value."""
    num_classes = spec_from(config).num_classes
    try:
        return build_model(num_classes, **config.model)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error


def save(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes ``config.json``, by which a workdir's checkpoints are understood later."""
    text = json.dumps(config.to_dict(), indent=2)
    partial = workdir / "config.json.part"
    partial.write_text(text + "\n")
    partial.replace(workdir / "config.json")


def load(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads a workdir's ``config.json``; raises `UserError` if there is none or it is damaged."""
    path = workdir / "config.json"
    try:
        saved = ml_collections.ConfigDict(json.loads(path.read_text()))
        config = default()
        config.update(saved)
    except FileNotFoundError as error:
        raise UserError(f"{workdir}: not a workdir of a training run (it holds no config.json)") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error})") from error
    return config


def check_same_model(config: ml_collections.ConfigDict, workdir: pathlib.Path, key: str, advice: str) -> None:
    """Raises `UserError` if a workdir's checkpoints hold another model than the config describes.

    Args:
      config: of this run.
      workdir: of the checkpoints.
      key: where the user named the workdir, for the message.
      advice: what to do about it, for the message.
    """
    saved = load(workdir)
    pairs = {f"config.model.{name}": (config.model[name], saved.model[name]) for name in ARCHITECTURE}
    pairs["the classes"] = (", ".join(spec_from(config).class_names), ", ".join(spec_from(saved).class_names))
    for name, (wanted, found) in pairs.items():
        if wanted != found:
            raise UserError(f"{key}={workdir}: its checkpoints have {name} {found!r}, not {wanted!r}; {advice}")
