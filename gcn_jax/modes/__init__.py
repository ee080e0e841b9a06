"""What the commands do: a module for each ``--mode``, and the table of them."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mode:
    """A row of the table.

    Attributes:
      module: of this package, whose ``run`` does it; imported when it is asked for.
      takes: the arguments of ``run``, by name: "config", "workdir", "configs" (of each workdir), or what a flag says.
      needs_trained: whether it applies a trained model, so that the config follows that of its training.
      compares: whether it takes several workdirs.
      needs: flags that must be given -> what they are, for the message.
    """

    module: str
    takes: tuple[str, ...] = ("config", "workdir")
    needs_trained: bool = False
    compares: bool = False
    needs: tuple[tuple[str, str], ...] = ()

    def run(self, **values: Any) -> None:
        """Does it, with those of the values that it takes."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        module.run(**{name: values[name] for name in self.takes})


_PREDICT = (("input", "an image, a folder, a glob or a data set's split"), ("output", "a folder"))
_EXPORT = (("output", "the file to write, such as model.safetensors or model.onnx"),)
MODES = {
    "train": Mode("train", takes=("config", "workdir", "profile_steps")),
    "eval": Mode("evaluate", takes=("configs",), needs_trained=True, compares=True),
    "predict": Mode("predict", ("config", "workdir", "pattern", "output"), needs_trained=True, needs=_PREDICT),
    "prepare": Mode("prepare"),
    "plan": Mode("plan"),
    "receptive_field": Mode("receptive_field", takes=("configs",), needs_trained=True, compares=True),
    "crf_search": Mode("crf_search", needs_trained=True),
    "calibrate": Mode("calibrate", needs_trained=True),
    "export": Mode("export", ("config", "workdir", "output"), needs_trained=True, needs=_EXPORT),
}
