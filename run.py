"""Trains, evaluates and applies a model: ``python run.py --config=configs/voc.py:stage3 [--mode=...]``."""

import contextlib
import os
import pathlib
import re
import signal
import sys
from types import FrameType
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from gcn_jax.checkpoints import saved_config
from gcn_jax.config import checks, settings
from gcn_jax.console import guard_output
from gcn_jax.errors import TrainingError, UserError
from gcn_jax.files import check_is_local
from gcn_jax.modes import MODES
from gcn_jax.runtime import processes
from gcn_jax.runtime.compilation import enable_cache, return_memory

_INTERRUPTED = "run.py: interrupted; run the same command again to go on"
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py or configs/NAME.py:STAGE; any value can be set: --config.batch_size=8"
)
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "what to do")
_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    [],
    "folder of checkpoints and logs; default: runs/NAME/STAGE; eval, receptive_field: several to compare, a flag each; "
    "eval and predict: or a file of --mode=export",
)
_INPUT = flags.DEFINE_string("input", "", "predict: an image, a folder of images, a glob, or data: cityscapes/test")
_OUTPUT = flags.DEFINE_string(
    "output", "", "predict: the folder to write to; export: the file: .safetensors, .onnx, .stablehlo or .tflite"
)
_PROFILE = flags.DEFINE_integer(
    "profile_steps", 0, "train: how many steps to record for TensorBoard's profiler", lower_bound=0
)


def parse_flags(argv: list[str]) -> None:
    """Parses the command line; raises `UserError` for whatever is wrong with it."""
    app.define_help_flags()
    for argument in argv:
        if argument.startswith("--config="):
            check_is_local("--config", argument.removeprefix("--config="))
    try:
        extra = flags.FLAGS(argv)[1:]
    except OSError as error:  # what ml_collections raises if it cannot load the file
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from error
    except (AttributeError, KeyError) as error:  # what ml_collections raises for an unknown key
        key = re.findall(r"\w+", str(error))[0]
        known = re.search(r'Did you mean \\*"(\w+)', str(error))
        given = (argument.partition("=")[0] for argument in argv)
        flag = next((flag for flag in given if flag.endswith(f".{key}")), f"--config.{key}")
        hint = f"; did you mean {known[1]}?" if known else ""
        raise UserError(f"--{checks.unknown_key(flag.removeprefix('--config.'))}{hint}") from error
    except flags.Error as error:  # its last line is the message of what get_config raised, if that was it
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("gcn_jax.errors.UserError: ")) from error
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    if not flags.FLAGS["config"].present:
        raise UserError("--config is missing, such as --config=configs/shapes.py")
    for name, values in (("workdir", _WORKDIR.value), ("input", [_INPUT.value]), ("output", [_OUTPUT.value])):
        for value in values:
            check_is_local(f"--{name}", value)
    path, _ = config_file()
    if not path.is_file():
        raise UserError(f"--config={path}: no such file")
    mode = MODES[_MODE.value]
    if len(_WORKDIR.value) > 1 and not mode.compares:
        several = " and ".join(name for name, other in MODES.items() if other.compares)
        raise UserError(f"--workdir: --mode={_MODE.value} takes one; only {several} compare several")
    if not all(flags.FLAGS[name].value for name, _ in mode.needs):
        raise UserError(
            f"--mode={_MODE.value} needs " + " and ".join(f"--{name} ({what})" for name, what in mode.needs)
        )
    if _PROFILE.value and "profile_steps" not in mode.takes:
        raise UserError(f"--profile_steps={_PROFILE.value}: --mode={_MODE.value} has no steps; only train has")


def config_file() -> tuple[pathlib.Path, str]:
    """The file and the stage of ``--config=FILE:STAGE``."""
    flag: Any = flags.FLAGS["config"]
    path, _, stage = flag.config_filename.partition(":")
    return pathlib.Path(path), stage


def workdirs() -> list[pathlib.Path]:
    """What ``--workdir`` says, or ``runs/voc/stage2`` for ``--config=configs/voc.py:stage2``."""
    path, stage = config_file()
    return [pathlib.Path(given).expanduser() for given in _WORKDIR.value] or [pathlib.Path("runs", path.stem, stage)]


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the process at once: an exception may be lost (raised in JAX's garbage collection hook, it is ignored)."""
    del frame
    with contextlib.suppress(OSError):
        os.write(2, f"\n{_INTERRUPTED}\n".encode())
    os._exit(128 + number)


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Tells of an error in a callback, but not of Tensorstore's, whose writes go on after one failed and Orbax left."""
    if not (error.exc_type is RuntimeError and str(error.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(error)


def main(argv: list[str]) -> int:
    """Runs a command line; returns the exit status."""
    parse_flags(argv)
    logging.set_verbosity(logging.FATAL)  # Orbax tells of every file it touches, and of a failure in every thread
    sys.unraisablehook = _unraisable
    return_memory()
    name, mode, config, paths = _MODE.value, MODES[_MODE.value], _CONFIG.value, workdirs()
    meeting = settings.meeting(config)
    if name != "train" and (group := processes.find_group(meeting)):
        raise UserError(f"{group.name}: --mode={name} runs in one process; {group.alone}")
    if mode.needs_trained:
        given = config_flags.get_override_values(flags.FLAGS["config"])
        configs = {path: saved_config.of_trained(config, path, given) for path in paths}
    else:
        checks.validate(config)
        configs = dict.fromkeys(paths, config)
    enable_cache(config.cache_dir)
    if name == "train":
        processes.join(meeting)
    elif not mode.needs_trained:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
    mode.run(
        config=configs[paths[0]],
        configs=configs,
        workdir=paths[0],
        pattern=_INPUT.value,
        output=pathlib.Path(_OUTPUT.value).expanduser(),
        profile_steps=_PROFILE.value,
    )
    return 0


if __name__ == "__main__":
    guard_output()
    try:
        sys.exit(main(sys.argv))
    except UserError as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        processes.leave(2)
    except TrainingError as error:
        print(f"run.py: training stopped: {error}", file=sys.stderr)
        processes.leave(1)
    except OSError as error:  # such as of a full disk, in the middle of writing
        where = f"{error.filename}: " if error.filename else ""
        print(f"run.py: error: {where}{error.strerror or error}", file=sys.stderr)
        processes.leave(2)
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
