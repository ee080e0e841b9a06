"""``--mode=export``: a trained model as one file."""

import pathlib

import ml_collections

from gcn_jax.checkpoints import saved_config, temperature
from gcn_jax.checkpoints.best import read_best
from gcn_jax.checkpoints.model_file import load_trained, save
from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import make_folder


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, output: pathlib.Path) -> None:
    """``--mode=export``: writes a workdir's model to a file.

    Args:
      config: for ``eval``, how the file's model will label images, and which checkpoint to take.
      workdir: of the run.
      output: the file.

    Raises:
      UserError: if the file is there already or cannot be written, or there is no checkpoint.
    """
    if output.suffix != ".safetensors":
        raise UserError(f"--output={output}: must end in .safetensors")
    if workdir.is_file():
        raise UserError(f"--workdir={workdir}: is one file already; --mode=export takes the workdir of a run")
    if output.exists():
        raise UserError(f"--output={output}: exists already; choose another name, or delete it")
    make_folder(f"--output={output}", output.parent)
    exported = saved_config.load(workdir)
    step, variables = load_trained(workdir, config.eval.checkpoint)
    exported.eval = temperature.settled(config, workdir, step).eval
    best = read_best(workdir)
    miou = best.miou if best and best.step == step else None
    save(output, variables, exported, step, miou)
    say(f"written: {output}, step {step} of {workdir}, {output.stat().st_size / 1e6:.1f} MB")
