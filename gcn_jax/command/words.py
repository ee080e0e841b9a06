"""``gcn_jax MODE ...`` as flags: what each argument without a name stands for."""

import itertools
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from gcn_jax.command import recipes
from gcn_jax.errors import UserError, did_you_mean
from gcn_jax.modes import FLAGS, MODES, WORDS

_PREDICTIONS = "predictions"  # where predict writes to, if it is not told


def as_flags(arguments: Sequence[str]) -> list[str]:
    """The same command as flags of one argument each: ``--mode=predict``, ``--workdir=MODEL``, ``--input=PHOTO``.

    Args:
      arguments: of the command, without the program: the mode and then, in any order, words and flags. The value of a
        flag follows it after "=", or as the next argument.

    Raises:
      UserError: naming an argument that is unknown, left over or missing.
    """
    mode, rest = _mode(arguments)
    flags, words = _split(mode, rest)
    flags += _named(mode, flags, words)
    _check_complete(mode, _names(flags))
    if mode == "predict" and "output" not in _names(flags):
        flags.append(f"--output={_free(_PREDICTIONS)}")
    flags.sort(key=lambda flag: not flag.startswith("--config="))  # the values to change in it come after it
    return [f"--mode={mode}", *flags]


def _mode(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The mode, by its name or by ``--mode``, and the other arguments."""
    mode, *rest = arguments
    if mode.startswith("-"):
        *_, mode = ["", *(argument.removeprefix("--mode=") for argument in arguments if argument.startswith("--mode="))]
        rest = [argument for argument in arguments if not argument.startswith("--mode=")]
        if not mode:
            raise UserError("the mode comes first, as in gcn_jax train shapes; gcn_jax --help lists them")
    if mode not in MODES:
        raise UserError(f"{mode}: no mode; known: {', '.join(MODES)}{did_you_mean(mode, MODES)}")
    return mode, rest


def _split(mode: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of a command, each with its value, and its words."""
    flags, words = [], []
    queue = iter(arguments)
    for argument in queue:
        name, equals, _ = argument.partition("=")
        if not argument.startswith("-"):
            words.append(argument)
            continue
        key = name.removeprefix("--config.")
        is_key = name.startswith(("--config.", "--noconfig."))
        if not is_key:
            _check_flag(mode, name.lstrip("-"))
        if equals or (is_key and isinstance(_keys().get(key, True), bool)):  # a flag that is true without a value
            flags.append(argument)
        elif (value := next(queue, None)) is not None:
            flags.append(f"{name}={value}")
        else:
            row = FLAGS.get(name.removeprefix("--"))
            raise UserError(f"{name}: needs a value, as in {name}={row.value if row else 'VALUE'}")
    return flags, words


def _keys() -> dict[str, Any]:
    """All keys of the config, such as "eval.flip", with their defaults."""
    from gcn_jax.config.defaults import default

    top = default().to_dict()
    groups = {group: values for group, values in top.items() if isinstance(values, dict)}
    return top | {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}


def _check_flag(mode: str, name: str) -> None:
    """Raises `UserError` unless a mode has a flag."""
    known = ["config", *MODES[mode].flags()]
    if name in known:
        return
    others = [other for other, row in MODES.items() if name in row.flags()]
    if others:
        raise UserError(f"--{name}: {mode} does not have it; only {' and '.join(others)}; gcn_jax {mode} --help")
    near = did_you_mean(name, known).replace("mean ", "mean --")
    if not near and (key := _key(name)):
        near = f"; did you mean --config.{key}?"
    raise UserError(f"--{name}: unknown flag of {mode}{near or f'; gcn_jax {mode} --help lists them'}")


def _key(name: str) -> str:
    """The config's key that a flag without "config." is probably meant for; "" if there is none."""
    return next((key for key in _keys() if name in (key, key.rpartition(".")[2])), "")


def _names(flags: Sequence[str]) -> set[str]:
    return {flag.partition("=")[0].removeprefix("--") for flag in flags}


def _named(mode: str, flags: Sequence[str], words: Sequence[str]) -> list[str]:
    """The flags that words stand for, in their order; those that were given as flags stand for no word."""
    given = _names(flags)
    kinds = [word for word in MODES[mode].words.split() if WORDS[word.rstrip(".")] not in given]
    if kinds and kinds[-1].endswith("..."):
        kinds += [kinds[-1]] * len(words)
    elif len(words) > len(kinds):
        raise UserError(f"unexpected argument {words[len(kinds)]!r}: {_usage(mode)}")
    return [f"--{WORDS[kind.rstrip('.')]}={word}" for kind, word in zip(kinds, words, strict=False)]


def _usage(mode: str) -> str:
    return f"gcn_jax {mode} {MODES[mode].words} [--FLAG=VALUE ...]"


def _check_complete(mode: str, given: Collection[str]) -> None:
    """Raises `UserError` if something is missing; with a config the model is that of its run."""
    enough = {"MODEL": {"workdir", "config"}, "CONFIG": {"config"}}
    for word in MODES[mode].words.replace(".", "").split():
        if not enough.get(word, {WORDS[word]}).intersection(given):
            known = f"; recipes: {', '.join(recipes.names())}" if word == "CONFIG" else ""
            raise UserError(f"{mode} needs {word}: {_usage(mode)}{known}")


def _free(name: str) -> str:
    """A folder's name, or with the first number that makes it one that is not there."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(name for name in names if not pathlib.Path(name).exists())
