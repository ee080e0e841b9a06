"""``--mode=export``: a trained model as one file, by its suffix."""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import pathlib
from dataclasses import dataclass

import ml_collections

from gcn_jax.checkpoints import model_file, saved_config, temperature
from gcn_jax.checkpoints.best import read_best
from gcn_jax.config import settings
from gcn_jax.config.settings import Protocol
from gcn_jax.console import say
from gcn_jax.data import sources
from gcn_jax.errors import UserError
from gcn_jax.files import make_folder, write_bytes
from gcn_jax.inference.segmenter import make_segmenter


@dataclass(frozen=True)
class Format:
    """How a model is written for other programs.

    Attributes:
      module: of `gcn_jax.export`, whose ``to_bytes`` does it; imported when it is asked for.
      package: that it needs.
      install: what installs that, as pip's arguments.
    """

    module: str
    package: str
    install: str


_OWN = ".safetensors"
_OTHERS = {
    ".onnx": Format("onnx_file", "onnx", '-c requirements.txt ".[onnx]"'),
    ".stablehlo": Format("stablehlo", "flatbuffers", '-c requirements.txt ".[stablehlo]"'),
    # No extra: another part of the package, which we do not use, needs older versions than requirements.txt has.
    ".tflite": Format("tflite", "litert_converter", "--no-deps litert-converter==0.5.0"),
}
# What the programs of other formats do not do, but `Segmenter` does.
_LEFT_OUT = ("scales", "flip", "window", "crf")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, output: pathlib.Path) -> None:
    """``--mode=export``: writes a model to a file.

    Args:
      config: for ``eval``, how the file's model will label images, and which checkpoint to take.
      workdir: of the run; for other formats than ours also a file in ours.
      output: the file.

    Raises:
      UserError: if the file is there already or cannot be written, a package is missing, there is no checkpoint, or the
        format lacks a part of the model.
    """
    _check(workdir, output)
    exported = saved_config.load(workdir)
    step, variables = model_file.load_trained(workdir, config.eval.checkpoint)
    exported.eval = temperature.settled(config, workdir, step).eval
    best = None if workdir.is_file() else read_best(workdir)
    miou = best.miou if best and best.step == step else None
    if output.suffix == _OWN:
        model_file.save(output, variables, exported, step, miou)
    else:
        _write_other(output, variables, exported, {"step": step} | ({} if miou is None else {"miou": miou}))
    say(f"written: {output}, step {step} of {workdir}, {output.stat().st_size / 1e6:.1f} MB")


def _check(workdir: pathlib.Path, output: pathlib.Path) -> None:
    """Raises `UserError` if the file cannot be made, before anything is read."""
    if output.suffix != _OWN and output.suffix not in _OTHERS:
        raise UserError(f"--output={output}: must end in {', '.join([_OWN, *_OTHERS][:-1])} or {[*_OTHERS][-1]}")
    if output.suffix == _OWN and workdir.is_file():
        raise UserError(f"--workdir={workdir}: is one file already; --mode=export takes the workdir of a run")
    if output.exists():
        raise UserError(f"--output={output}: exists already; choose another name, or delete it")
    kind = _OTHERS.get(output.suffix)
    if kind and importlib.util.find_spec(kind.package) is None:
        raise UserError(
            f"--output={output}: needs a library: pip install {kind.install}; or export to {_OWN}, which needs none"
        )
    make_folder(f"--output={output}", output.parent)


def _write_other(output: pathlib.Path, variables: dict, config: ml_collections.ConfigDict, notes: dict) -> None:
    """Writes a model for other programs, and says what of its protocol they do not do."""
    segmenter = make_segmenter(config, variables)
    writer = importlib.import_module(f"gcn_jax.export.{_OTHERS[output.suffix].module}")
    try:
        data = writer.to_bytes(segmenter, _metadata(config, notes))
    except ValueError as error:  # also a `UserError`
        raise UserError(f"--output={output}: {str(error).splitlines()[0][:500]}; export to {_OWN} instead") from error
    try:
        write_bytes(output, data)
    except OSError as error:
        raise UserError(f"--output={output}: cannot be written ({error.strerror})") from error
    defaults = {field.name: field.default for field in dataclasses.fields(Protocol)}
    differing = [key for key in _LEFT_OUT if getattr(segmenter.protocol, key) != defaults[key]]
    if differing:
        keys = ", ".join(f"config.eval.{key}" for key in differing)
        say(f"{output}: takes an image whole and once; not in it: {keys}")


def _metadata(config: ml_collections.ConfigDict, notes: dict) -> dict[str, str]:
    """What a file says about its model: texts, JSON where it is no single value."""
    data = [f"{name}: {text}" for name, text in sources.licences(settings.datasets(config)).items()]
    parts = ["gcn_jax: Apache-2.0", "the weights: what whoever trained them says", *data]
    return {
        "gcn_jax": importlib.metadata.version("gcn_jax"),
        **{key: json.dumps(value) for key, value in model_file.description(config).items()},
        "temperature": str(config.eval.temperature),
        "licence": "; ".join(parts),
        **{key: str(value) for key, value in notes.items()},
    }
