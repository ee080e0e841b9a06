"""What the commands do: a module for each mode, and the tables of them and of their flags."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    """A row of the table of flags.

    Attributes:
      value: what stands for its value in the help.
      about: what it is, for the help.
      default: its value if it is not given, by whose type it is parsed; several may be given if that is a tuple.
    """

    value: str
    about: str
    default: str | int | tuple[str, ...]


# Beside --config and --mode. Numbers are 0 or more.
FLAGS = {
    "workdir": Flag("FOLDER", "the run's folder, by default runs/NAME/STAGE of the config; or a model's file", ()),
    "input": Flag("PATH", "an image, a folder, a glob, or data: cityscapes/test; several: a flag each", ()),
    "output": Flag("PATH", "predict: the folder to write to; export: a file, by its ending, or a folder", ""),
    "profile_steps": Flag("N", "how many steps to record for TensorBoard's profiler", 0),
}
# What an argument without a name stands for -> its flag.
WORDS = {"CONFIG": "config", "MODEL": "workdir", "PHOTO": "input", "FILE": "output"}
_FLAG_OF = {"configs": "workdir", "patterns": "input"}  # of arguments of ``run`` that have another name


@dataclass(frozen=True)
class Mode:
    """A row of the table of modes.

    Attributes:
      module: of this package, whose ``run`` does it; imported when it is asked for.
      about: what it does, for the help.
      words: of `WORDS`, those that it takes, in their order; dots for one that may be given several times.
      takes: the arguments of ``run``, by name: "config", "workdir", "configs" (of each workdir), or what a flag says.
      needs_trained: whether it applies a trained model, so that the config follows that of its training.
      compares: whether it takes several workdirs.
      hub: its flags that may be an address of the Hugging Face Hub, ``hf://USER/MODEL``.
      needs: flags that must be given -> what they are, for the message.
    """

    module: str
    about: str
    words: str
    takes: tuple[str, ...] = ("config", "workdir")
    needs_trained: bool = False
    compares: bool = False
    hub: tuple[str, ...] = ()
    needs: tuple[tuple[str, str], ...] = ()

    def run(self, **values: Any) -> None:
        """Does it, with those of the values that it takes."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        module.run(**{name: values[name] for name in self.takes})

    def flags(self) -> list[str]:
        """The names of its flags, of `FLAGS`."""
        return [name for name in (_FLAG_OF.get(taken, taken) for taken in self.takes) if name in FLAGS]


_PREDICT = (("input", "an image, a folder, a glob or a data set's split"), ("output", "a folder"))
_EXPORT = (("output", "the file to write, such as model.safetensors or model.onnx"),)
# By what they are for, as the help shows them.
GROUPS = {
    "Train": {
        "prepare": Mode("prepare", "check every file of the data, count, draw samples", "CONFIG"),
        "plan": Mode("plan", "what a training step needs, by the compiler", "CONFIG"),
        "train": Mode("train", "train; the same command resumes", "CONFIG", ("config", "workdir", "profile_steps")),
    },
    "Use a model": {
        "predict": Mode(
            "predict",
            "masks and overlays of photographs",
            "MODEL PHOTO...",
            ("config", "workdir", "patterns", "output"),
            needs_trained=True,
            hub=("workdir",),
            needs=_PREDICT,
        ),
        "export": Mode(
            "export",
            "a file (.safetensors, .onnx, .stablehlo, .tflite), a site/, or to the Hub",
            "MODEL FILE",
            ("config", "workdir", "output"),
            needs_trained=True,
            hub=("workdir", "output"),
            needs=_EXPORT,
        ),
        "serve": Mode("serve", "a page to drop photos on", "MODEL...", ("configs",), needs_trained=True, compares=True),
    },
    "Measure a model": {
        "eval": Mode("evaluate", "scores and a report", "MODEL...", ("configs",), needs_trained=True, compares=True),
        "receptive_field": Mode(
            "receptive_field", "what a pixel sees", "MODEL...", ("configs",), needs_trained=True, compares=True
        ),
        "calibrate": Mode("calibrate", "fit a temperature to the confidence", "MODEL", needs_trained=True),
        "crf_search": Mode("crf_search", "find the CRF's parameters", "MODEL", needs_trained=True),
    },
}
MODES = {name: mode for group in GROUPS.values() for name, mode in group.items()}
