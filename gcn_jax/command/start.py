"""Flags, parsed by absl and ml_collections; and one call of a mode."""

import contextlib
import functools
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from gcn_jax.checkpoints import saved_config
from gcn_jax.checkpoints.named_weights import local_file
from gcn_jax.command import recipes
from gcn_jax.config import checks, settings
from gcn_jax.errors import UserError, did_you_mean
from gcn_jax.files import HUB, check_is_local
from gcn_jax.modes import FLAGS, MODES
from gcn_jax.runtime import processes
from gcn_jax.runtime.compilation import enable_cache, return_memory

_OF_CONFIG = re.compile("--?(no)?config\\.")
_PATHS = ("FOLDER", "PATH")  # of the table of flags: whose values name folders and files of this machine


def run(program: str, arguments: Sequence[str]) -> int:
    """Runs a command that consists of flags; returns the exit status.

    Args:
      program: its name, for messages.
      arguments: what follows it.

    Raises:
      UserError: for whatever is wrong with the flags, and what the mode raises.
    """
    values = parse(arguments)
    logging.set_verbosity(logging.FATAL)  # Orbax tells of every file it touches, and of a failure in every thread
    sys.unraisablehook = _unraisable
    return_memory()
    name, mode, config, paths = values.mode, MODES[values.mode], values.config, _workdirs(values)
    meeting = settings.meeting(config)
    if name != "train" and (group := processes.find_group(meeting)):
        raise UserError(f"{group.name}: --mode={name} runs in one process; {group.alone}")
    if mode.needs_trained:
        given = config_flags.get_override_values(values["config"])
        configs = {path: saved_config.of_trained(config, path, given) for path in paths}
    else:
        checks.validate(config)
        configs = dict.fromkeys(paths, config)
    enable_cache(config.cache_dir)
    if name == "train":
        processes.join(meeting)
    elif not mode.needs_trained:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, functools.partial(_interrupt, program))
    others = {flag: values[flag].value for flag in FLAGS}
    others.update(patterns=values.input, output=_output(values.output))
    mode.run(**{**others, "config": configs[paths[0]], "configs": configs, "workdir": paths[0]})
    return 0


def parse(arguments: Sequence[str]) -> flags.FlagValues:
    """Parses flags; raises `UserError` for whatever is wrong with them.

    Without ``--config`` a trained model's own counts.
    """
    given = [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]
    for text in given:
        check_is_local("--config", text)
    files = {f"--config={text}": f"--config={recipes.find(text)}" for text in given}
    try:
        values = _parsed([files.get(argument, argument) for argument in arguments])
    except UserError as error:  # where a recipe names itself, it does so by its file
        raise UserError(re.sub(r"--config=configs/(\w+)\.py", _as_given(given), str(error))) from error
    _check(values)
    return values


def _as_given(given: Sequence[str]) -> Callable[[re.Match[str]], str]:
    names = {text.partition(":")[0] for text in given}
    return lambda found: f"--config={found[1]}" if found[1] in names else found[0]


def _parsed(arguments: Sequence[str]) -> flags.FlagValues:
    if any(argument.partition("=")[0] in ("--config", "-config") for argument in arguments):
        return _parsed_for(arguments, None)
    values = _parsed_for([argument for argument in arguments if not _OF_CONFIG.match(argument)], None)
    if not (MODES[values.mode].needs_trained and values.workdir):
        raise UserError("--config is missing, such as --config=configs/shapes.py")
    _check(values)
    return _parsed_for(arguments, saved_config.for_use(_model(values.workdir[0])))


def _parsed_for(arguments: Sequence[str], config: ml_collections.ConfigDict | None) -> flags.FlagValues:
    """The flags, with a config to change values in; None: the one in a file, which ``--config`` names."""
    values = flags.FlagValues()
    values.append_flag_values(flags.FLAGS)  # those of absl itself
    try:
        _define(values, ["", *arguments], config)
        extra = values(["", *arguments])[1:]
    except OSError as error:  # what ml_collections raises if it cannot load the file
        file = re.search(r"(\w+)\.py'$", str(error))
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}{_near(file[1]) if file else ''}") from error
    except (AttributeError, KeyError) as error:  # what ml_collections raises for an unknown key
        key = re.findall(r"\w+", str(error))[0]
        known = re.search(r'Did you mean \\*"(\w+)', str(error))
        given = (argument.partition("=")[0] for argument in arguments)
        flag = next((flag for flag in given if flag.endswith(f".{key}")), f"--config.{key}")
        hint = f"; did you mean {known[1]}?" if known else ""
        raise UserError(f"--{checks.unknown_key(flag.removeprefix('--config.'))}{hint}") from error
    except flags.Error as error:  # its last line is the message of what get_config raised, if that was it
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("gcn_jax.errors.UserError: ")) from error
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    return values


def _define(values: flags.FlagValues, argv: list[str], config: ml_collections.ConfigDict | None) -> None:
    """Defines all flags, and one for each value of the config that `argv` sets."""
    options: dict[str, Any] = {"flag_values": values, "sys_argv": argv}
    if config is None:
        config_flags.DEFINE_config_file("config", None, "a recipe or a file, and a stage", **options)
    else:
        config_flags.DEFINE_config_dict("config", config, "of the model", **options)
    flags.DEFINE_enum("mode", "train", list(MODES), "what to do", flag_values=values)
    for name, flag in FLAGS.items():
        if isinstance(flag.default, tuple):
            flags.DEFINE_multi_string(name, list(flag.default), flag.about, flag_values=values)
        elif isinstance(flag.default, int):
            flags.DEFINE_integer(name, flag.default, flag.about, lower_bound=0, flag_values=values)
        else:
            flags.DEFINE_string(name, flag.default, flag.about, flag_values=values)


def _check(values: flags.FlagValues) -> None:
    """Raises `UserError` for flags that have no meaning, or not for the mode."""
    name, mode = values.mode, MODES[values.mode]
    for flag, row in FLAGS.items():
        if row.value in _PATHS:
            given: Any = values[flag].value
            for value in [given] if isinstance(given, str) else given:
                if not (flag in mode.hub and value.startswith(HUB)):
                    check_is_local(f"--{flag}", value)
    file = _config_file(values)
    if file and not file[0].is_file():
        raise UserError(f"--config={file[0]}: no such file{_near(file[0].stem)}")
    if len(values.workdir) > 1 and not mode.compares:
        *others, last = (other for other, row in MODES.items() if row.compares)
        raise UserError(f"--workdir: --mode={name} takes one; only {', '.join(others)} and {last} take several")
    if not all(values[flag].value for flag, _ in mode.needs):
        raise UserError(f"--mode={name} needs " + " and ".join(f"--{flag} ({what})" for flag, what in mode.needs))
    if values.profile_steps and "profile_steps" not in mode.takes:
        raise UserError(f"--profile_steps={values.profile_steps}: --mode={name} has no steps; only train has")


def _near(recipe: str) -> str:
    return did_you_mean(recipe, recipes.names())


def _config_file(values: flags.FlagValues) -> tuple[pathlib.Path, str] | None:
    """The file and the stage of ``--config=FILE:STAGE``; None if the config is a model's."""
    flag: Any = values["config"]
    if not flag.present:
        return None
    path, _, stage = flag.config_filename.partition(":")
    return pathlib.Path(path), stage


def _workdirs(values: flags.FlagValues) -> list[pathlib.Path]:
    """What ``--workdir`` says, or ``runs/voc/stage2`` for ``--config=configs/voc.py:stage2``."""
    path, stage = _config_file(values) or (pathlib.Path(), "")
    return [_model(given) for given in values.workdir] or [pathlib.Path("runs", path.stem, stage)]


def _model(given: str) -> pathlib.Path:
    return local_file("--workdir", given) if given.startswith(HUB) else pathlib.Path(given).expanduser()


def _output(given: str) -> pathlib.Path | str:
    return given if given.startswith(HUB) else pathlib.Path(given).expanduser()


def _interrupt(program: str, number: int, frame: FrameType | None) -> None:
    """Ends the process at once: an exception may be lost (raised in JAX's garbage collection hook, it is ignored)."""
    del frame
    with contextlib.suppress(OSError):
        os.write(2, f"\n{program}: interrupted; run the same command again to go on\n".encode())
    os._exit(128 + number)


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Tells of an error in a callback, but not of Tensorstore's, whose writes go on after one failed and Orbax left."""
    if not (error.exc_type is RuntimeError and str(error.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(error)
