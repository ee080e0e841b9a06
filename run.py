"""Trains, evaluates and applies a model: ``python run.py --config=configs/voc.py:stage3 [--mode=...]``."""

import pathlib
import signal
import sys
from types import FrameType
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from gcn_jax import config as config_lib
from gcn_jax import evaluate, predict, prepare, train
from gcn_jax.compilation import enable_cache
from gcn_jax.errors import UserError

MODES = ("train", "eval", "predict", "prepare")
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py or configs/NAME.py:STAGE; any value can be set: --config.batch_size=8"
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do")
_WORKDIR = flags.DEFINE_multi_string(
    "workdir", [], "folder of checkpoints and logs; default: runs/NAME/STAGE; eval: several to compare, a flag each"
)
_INPUT = flags.DEFINE_string("input", "", "predict: an image, a folder of images, a glob, or data: cityscapes/test")
_OUTPUT = flags.DEFINE_string("output", "", "predict: the folder to write to")


def parse_flags(argv: list[str]) -> None:
    """Parses the command line; raises `UserError` for whatever is wrong with it."""
    app.define_help_flags()
    try:
        extra = flags.FLAGS(argv)[1:]
    except OSError as error:  # what ml_collections raises if it cannot load the file
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from error
    except (AttributeError, KeyError) as error:  # what ml_collections raises for an unknown key
        key = str(error).strip("\"'")
        given = (argument.partition("=")[0] for argument in argv)
        flag = next((flag for flag in given if flag.endswith(f".{key}")), key)
        raise UserError(f"{flag}: unknown key; gcn_jax/config.py lists all keys") from error
    except flags.Error as error:  # its last line is the message of what get_config raised, if that was it
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("gcn_jax.errors.UserError: ")) from error
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    if not flags.FLAGS["config"].present:
        raise UserError("--config is missing, such as --config=configs/shapes.py")
    path, _ = config_file()
    if not path.is_file():
        raise UserError(f"--config={path}: no such file")
    if len(_WORKDIR.value) > 1 and _MODE.value != "eval":
        raise UserError(f"--workdir: --mode={_MODE.value} takes one; only eval compares several")
    if _MODE.value == "predict" and not (_INPUT.value and _OUTPUT.value):
        raise UserError(
            "--mode=predict needs --input (an image, a folder, a glob or a data set's split) and --output (a folder)"
        )


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
    raise KeyboardInterrupt(number)


def main(argv: list[str]) -> int:
    """Runs a command line; returns the exit status."""
    parse_flags(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file it touches
    config, (workdir, *others) = _CONFIG.value, workdirs()
    if _MODE.value in ("eval", "predict"):
        given = config_flags.get_override_values(flags.FLAGS["config"])
        trained = {path: config_lib.of_trained(config, path, given) for path in (workdir, *others)}
        enable_cache(config)
        if _MODE.value == "eval":
            evaluate.run(trained)
        else:
            predict.run(trained[workdir], workdir, _INPUT.value, pathlib.Path(_OUTPUT.value).expanduser())
    else:
        config_lib.validate(config)
        enable_cache(config)
        if _MODE.value == "train":
            train.run(config, workdir)
        else:
            signal.signal(signal.SIGTERM, _interrupt)
            prepare.run(config, workdir)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except UserError as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    except train.TrainingError as error:
        print(f"run.py: training stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print("run.py: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))
