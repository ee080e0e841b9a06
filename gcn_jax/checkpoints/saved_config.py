"""The config that is kept with trained weights."""

import contextlib
import json
import pathlib
from collections.abc import Collection
from typing import Any

import ml_collections

from gcn_jax.checkpoints import model_metadata as model_file
from gcn_jax.config.checks import check_values, validate
from gcn_jax.config.defaults import ARCHITECTURE, BACKBONE, PREPROCESSING, RETIRED, default
from gcn_jax.config.settings import model_from, spec_from
from gcn_jax.data import bands
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, write_json


def of_trained(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, given: Collection[str]
) -> ml_collections.ConfigDict:
    """The config for using a model that another run trained.

    Args:
      config: of this run.
      workdir: of the run that trained the model, or an exported file.
      given: keys that the user set on the command line, such as "model.width".

    Returns:
      A copy of `config`, in which every value that the trained model depends on is as it was in training.

    Raises:
      UserError: if the user asked for another model, or the data have other classes.
    """
    saved, settled = load(workdir), config.copy_and_resolve_references()
    learned = [f"model.{name}" for name in saved.model]
    learned += [
        f"data.{name}" for name in ("classes", "multi_label", "held_out", "first_id", "white", "size", *PREPROCESSING)
    ]
    if _channels(config.data.channels) != _channels(saved.data.channels) and "data.channels" in given:
        learned = [key for key in learned if key.removeprefix("data.") not in PREPROCESSING]  # which would not fit
    for key in learned:
        group, name = key.split(".")
        if key not in given:
            settled[group][name] = saved[group][name]
    validate(settled)
    check_same_model(settled, workdir, "--workdir", "it can only be used as it was trained")
    return settled


def save(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes ``config.json``, from which later runs know how to use the workdir's checkpoints."""
    write_json(workdir / RunFile.CONFIG, config.to_dict())


def load(source: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the config of a trained model.

    Args:
      source: a workdir, whose ``config.json`` is read, or a file that ``--mode=export`` wrote.

    Raises:
      UserError: if there is no config, or it is damaged.
    """
    path = source if source.is_file() else source / RunFile.CONFIG
    try:
        text = model_file.config_text(path) if source.is_file() else path.read_text(encoding="utf-8")
        config = default()
        config.update(_known_values(_without_retired(json.loads(text, parse_constant=_refuse)), config))
        check_values(config)
        model_from(config)
    except FileNotFoundError as error:
        raise UserError(f"{source}: not a workdir of a training run (it holds no config.json)") from error
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({(str(error).splitlines() or [''])[0]})") from error
    return config


def for_use(source: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a trained model to use it by on this machine, whose cache, devices and processes are others."""
    config = load(source)
    for key in ("cache_dir", "mesh", "distributed"):
        config[key] = default()[key]
    return config


def _refuse(constant: str) -> None:
    """Raises `ValueError` for NaN and Infinity, which Python's JSON parser would accept."""
    raise ValueError(f"{constant} is no number")


def _without_retired(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a saved config without the keys that no longer exist; none of them affects a model."""
    for key in RETIRED:
        group, _, name = key.partition(".")
        if isinstance(values.get(group), dict):
            values[group].pop(name, None)
    return values


def _known_values(given: dict[str, Any], known: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values of a saved config, unchanged; raises `ValueError` for a key that this version does not know."""
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"unknown key {ascii(key)[:80]}, of another version")
        if isinstance(known[key], ml_collections.ConfigDict):
            _known_values(value, known[key])
    return given


def _plain(value: Any) -> Any:
    """A value of `PREPROCESSING` in a form that can be compared: a text, or a tuple of numbers."""
    return _channels(value) if isinstance(value, str) else tuple(map(float, value))


def _channels(text: str) -> str:
    """The same text for the same channels; as it is if it names none."""
    with contextlib.suppress(ValueError):
        return ",".join(map(str, bands.parse(text))) or text
    return text


def check_same_model(config: ml_collections.ConfigDict, workdir: pathlib.Path, key: str, advice: str) -> None:
    """Checks that a trained model is the one that a config describes.

    Args:
      config: of this run.
      workdir: of the checkpoints, or an exported file.
      key: the flag or config key that names the workdir, for the message.
      advice: what the user can do, for the message.

    Raises:
      UserError: naming the first value in which they differ.
    """
    saved = load(workdir)
    pairs = _values(config, saved, ARCHITECTURE)
    pairs["config.data.multi_label"] = (config.data.multi_label, saved.data.multi_label)
    pairs["the classes"] = (", ".join(spec_from(config).class_names), ", ".join(spec_from(saved).class_names))
    _check_equal(pairs, workdir, key, advice)


def check_same_backbone(config: ml_collections.ConfigDict, workdir: pathlib.Path, key: str, advice: str) -> None:
    """Does what `check_same_model` does for the backbone and the images that it takes: heads and classes may differ."""
    _check_equal(_values(config, load(workdir), BACKBONE), workdir, key, advice)


def _values(
    config: ml_collections.ConfigDict, saved: ml_collections.ConfigDict, names: Collection[str]
) -> dict[str, tuple[Any, Any]]:
    """The values of some keys of the model, and of its preprocessing, in two configs."""
    pairs = {f"config.model.{name}": (config.model[name], saved.model[name]) for name in names}
    pairs |= {f"config.data.{name}": (_plain(config.data[name]), _plain(saved.data[name])) for name in PREPROCESSING}
    return pairs


def _check_equal(pairs: dict[str, tuple[Any, Any]], workdir: pathlib.Path, key: str, advice: str) -> None:
    kind = "model has" if workdir.is_file() else "checkpoints have"
    for name, (wanted, found) in pairs.items():
        if wanted != found:
            raise UserError(f"{key}={workdir}: its {kind} {name} {found!r}, not {wanted!r}; {advice}")
