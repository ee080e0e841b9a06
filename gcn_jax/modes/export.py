"""``--mode=export``: a trained model as one file, as a page, or as a repository of the Hugging Face Hub."""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import ml_collections

from gcn_jax.checkpoints import model_file, saved_config, temperature
from gcn_jax.checkpoints.best import read_best
from gcn_jax.config import settings
from gcn_jax.config.settings import Protocol
from gcn_jax.console import say
from gcn_jax.data import sources
from gcn_jax.errors import UserError
from gcn_jax.export import hub, model_card
from gcn_jax.files import RunFile, make_folder, output_path, write_bytes
from gcn_jax.inference.segmenter import Segmenter, make_segmenter
from gcn_jax.serving import site
from gcn_jax.serving.models import Model, check_takes_photos


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
    "": Format("onnx_file", "onnx", '-c requirements.txt ".[onnx]"'),  # a folder, the page of which runs it
    ".stablehlo": Format("stablehlo", "flatbuffers", '-c requirements.txt ".[stablehlo]"'),
    # No extra: another part of the package, which we do not use, needs older versions than requirements.txt has.
    ".tflite": Format("tflite", "litert_converter", "--no-deps litert-converter==0.5.0"),
}
# What the programs of other formats do not do, but `Segmenter` does.
_LEFT_OUT = ("scales", "flip", "window", "crf")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, output: pathlib.Path | str) -> None:
    """``--mode=export``: writes a model to a file, a page with it to a folder, or to the Hub.

    Args:
      config: for ``eval``, how the file's model will label images, and which checkpoint to take.
      workdir: of the run; for other formats than ours also a file in ours.
      output: the file; without a suffix, the folder; or an address of the Hub, a text.

    Raises:
      UserError: if it is there already or cannot be written, a package is missing, there is no checkpoint, or the
        format lacks a part of the model.
    """
    if isinstance(output, str):
        hub.check("--output", output)
    else:
        _check(workdir, output)
    exported = saved_config.load(workdir)
    if isinstance(output, pathlib.Path) and output.suffix != _OWN and exported.model.crf:
        problem = f"{workdir} has config.model.crf={exported.model.crf}, which other formats have no layer for"
        raise UserError(f"--output={output}: {problem}; export to {_OWN} instead")
    step, variables = model_file.load_trained(workdir, config.eval.checkpoint)
    exported.eval, exported.export = temperature.settled(config, workdir, step).eval, config.export
    best = None if workdir.is_file() else read_best(workdir)
    miou = best.miou if best and best.step == step else None
    if isinstance(output, str):
        data = model_file.to_bytes(variables, exported, step, miou)
        say(f"written: {_publish(output, data, exported, workdir, step)}, step {step} of {workdir}")
        return
    if output.suffix == _OWN:
        model_file.save(output, variables, exported, step, miou)
    else:
        notes = {"step": step} | ({} if miou is None else {"miou": miou})
        segmenter = make_segmenter(exported, variables)
        data = _to_bytes(output, segmenter, _metadata(exported, notes))
        try:
            if output.suffix:
                write_bytes(output, data)
            else:
                model = Model(workdir.stem if workdir.is_file() else workdir.absolute().name, step, segmenter)
                site.write(output, site.find_runtime(output), model, data, config.serve.longest)
        except OSError as error:
            raise UserError(f"--output={output}: cannot be written ({error.strerror})") from error
        _tell_left_out(output, segmenter.protocol)
    size = sum(file.stat().st_size for file in [output, *output.glob("*")] if file.is_file()) / 1e6
    hint = "" if output.suffix else f"; to see it: python -m http.server --directory {output}"
    say(f"written: {output}, step {step} of {workdir}, {size:.1f} MB{hint}")


def _publish(address: str, model: bytes, config: ml_collections.ConfigDict, workdir: pathlib.Path, step: int) -> str:
    """Writes a model with its card, its config and a picture to the Hub; returns the address of the commit."""
    result, pictures = _result(workdir, step), sorted((workdir / RunFile.PICTURES).glob("*.png"))
    picture = pictures[-1] if pictures and config.export.picture else None
    files = {
        hub.MODEL: model,
        RunFile.CONFIG.value: json.dumps(model_file.for_others(config), indent=2).encode(),
        **({"picture.png": picture.read_bytes()} if picture else {}),
        hub.CARD: model_card.card(address, config, step, result, "picture.png" if picture else "").encode(),
    }
    if not config.export.licence:
        say("the card states no licence of the weights: --config.export.licence=NAME, or edit the card")
    if picture:
        say(f"the card shows {picture}, images of {config.data.eval}; without: --config.export.picture=False")
    say(f"writing {sum(map(len, files.values())) / 1e6:.1f} MB to {address}")
    return hub.publish("--output", address, files)


def _result(workdir: pathlib.Path, step: int) -> dict[str, Any] | None:
    """What the last evaluation of these weights has found; None, and a line that says so, if there was none."""
    path = output_path(workdir, RunFile.EVALUATION)
    problem = "is not there"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["step"] == step:
            return result
        problem = f"is of step {result['step']}, not {step}"
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"is damaged ({error})"
    say(f"the card has no scores: {path} {problem}; --mode=eval measures them")
    return None


def _check(workdir: pathlib.Path, output: pathlib.Path) -> None:
    """Raises `UserError` if the file cannot be made, before anything is read."""
    if output.suffix != _OWN and output.suffix not in _OTHERS:
        *endings, last = [_OWN, *filter(None, _OTHERS)]
        raise UserError(
            f"--output={output}: must end in {', '.join(endings)} or {last}, be a folder without a dot, such as site/, "
            "or be hf://USER/MODEL"
        )
    if output.suffix == _OWN and workdir.is_file():
        raise UserError(f"--workdir={workdir}: is one file already; --mode=export takes the workdir of a run")
    if output.exists():
        raise UserError(f"--output={output}: exists already; choose another name, or delete it")
    kind = _OTHERS.get(output.suffix)
    if kind and importlib.util.find_spec(kind.package) is None:
        raise UserError(
            f"--output={output}: needs a library: pip install {kind.install}; or export to {_OWN}, which needs none"
        )
    if not output.suffix:
        site.find_runtime(output)
        check_takes_photos(str(workdir), saved_config.load(workdir))
    make_folder(f"--output={output}", output.parent)


def _to_bytes(output: pathlib.Path, segmenter: Segmenter, metadata: dict[str, str]) -> bytes:
    """A model for other programs; raises `UserError` if the format lacks a part of it."""
    writer = importlib.import_module(f"gcn_jax.export.{_OTHERS[output.suffix].module}")
    try:
        return writer.to_bytes(segmenter, metadata)
    except ValueError as error:  # also a `UserError`
        raise UserError(f"--output={output}: {str(error).splitlines()[0][:500]}; export to {_OWN} instead") from error


def _tell_left_out(output: pathlib.Path, protocol: Protocol) -> None:
    """Says what of a model's protocol other programs do not do; a page does one scale."""
    defaults = {field.name: field.default for field in dataclasses.fields(Protocol)}
    differing = [key for key in _LEFT_OUT if getattr(protocol, key) != defaults[key]]
    if not output.suffix and len(protocol.scales) == 1:
        differing = [key for key in differing if key != "scales"]
    if differing:
        keys = ", ".join(f"config.eval.{key}" for key in differing)
        say(f"{output}: takes an image whole and once; not in it: {keys}")


def _metadata(config: ml_collections.ConfigDict, notes: dict) -> dict[str, str]:
    """What a file says about its model: texts, JSON where it is no single value."""
    data = [f"{name}: {text}" for name, text in sources.licences(settings.datasets(config)).items()]
    weights = config.export.licence or "what whoever trained them says"
    parts = ["gcn_jax: Apache-2.0", f"the weights: {weights}", *data]
    return {
        "gcn_jax": importlib.metadata.version("gcn_jax"),
        **{key: json.dumps(value) for key, value in model_file.description(config).items()},
        "temperature": str(config.eval.temperature),
        "licence": "; ".join(parts),
        **{key: str(value) for key, value in notes.items()},
    }
