"""Compiles the training step for a mesh; neither its devices nor any data are needed."""

import concurrent.futures
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from gcn_jax.console import bar, say
from gcn_jax.files import write_json
from gcn_jax.models import variable_shapes
from gcn_jax.models.ops.xla import platform
from gcn_jax.models.preprocessing import PyTree
from gcn_jax.planning import hlo_text
from gcn_jax.runtime import compilation
from gcn_jax.runtime.mesh import batch_sharding, replicated
from gcn_jax.training.optimizer import split_fixed
from gcn_jax.training.step import Recipe, TrainState, init_state, jit_train_step, make_loss

_VERSION = 3  # of the files in cache_dir/plans


def abstract_inputs(recipe: Recipe, mesh: Mesh, batch_size: int, size: int) -> tuple[TrainState, PyTree]:
    """Shapes, dtypes and shardings of a training step's state and batch, without any values.

    Args:
      recipe: of the step.
      mesh: of devices.
      batch_size: number of images in a batch.
      size: height and width of the images, pixels.

    Returns:
      The state and the batch, with `jax.ShapeDtypeStruct` as leaves.
    """
    state = jax.eval_shape(lambda v: init_state(v, recipe), variable_shapes(recipe.model))
    pixels = (batch_size, size, size)
    images = jax.ShapeDtypeStruct((*pixels, recipe.model.channels), recipe.preprocessing.dtype)
    planes = (recipe.model.num_classes,) if recipe.loss.multi_label else ()
    batch = {"image": images, "label": jax.ShapeDtypeStruct((*pixels, *planes), jnp.uint8)}

    def placed(tree: PyTree, sharding: NamedSharding) -> PyTree:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    return placed(state, replicated(mesh)), placed(batch, batch_sharding(mesh))


def kept_activations(recipe: Recipe, mesh: Mesh, batch_size: int, size: int) -> int:
    """Bytes per device that grow with the batch: activations kept from the forward pass for the backward pass.

    It is an upper bound for a batch of this size, since the compiler later fuses operations and recomputes cheap ones.

    Args:
      recipe: of the step.
      mesh: of devices.
      batch_size: number of images in a batch.
      size: height and width of the images, pixels.
    """
    loss_fn = make_loss(recipe)

    def kept_of(num_batches: int) -> int:
        state, batch = abstract_inputs(recipe, mesh, num_batches * batch_size, size)
        trained, fixed = split_fixed(state.params, recipe.model.backbone.freeze)

        def kept(batch: PyTree, trained: PyTree, fixed: PyTree, batch_stats: PyTree) -> Any:
            return jax.tree.leaves(jax.vjp(lambda t: loss_fn(t, fixed, batch_stats, batch), trained, has_aux=True)[1])

        with platform(compilation.platform_of(mesh)):
            jaxpr = jax.make_jaxpr(kept)(batch, trained, fixed, state.batch_stats).jaxpr
        of_images = {id(variable) for variable in jaxpr.invars[: len(batch)]}  # later also what is computed from them
        for equation in jaxpr.eqns:
            if any(id(variable) in of_images for variable in equation.invars):
                of_images.update(map(id, equation.outvars))
        results = {id(result): result.aval for result in jaxpr.outvars if id(result) in of_images}
        return sum(array.size * array.dtype.itemsize for array in results.values())

    return (kept_of(2) - kept_of(1)) // mesh.size


def compile_step(
    recipe: Recipe, mesh: Mesh, state: TrainState, batch: PyTree, topology: str, cache_dir: pathlib.Path
) -> dict[str, Any]:
    """Compiles the training step and returns what the compiler says about it.

    The answer is kept in ``cache_dir/plans``, so that the same step is compiled only once.

    Args:
      recipe: of the step.
      mesh: of local devices, or of those of a topology.
      state, batch: from `abstract_inputs`.
      topology: as ``config.plan.topology``; empty: the local devices.
      cache_dir: the folder for caches.

    Returns:
      For one device "memory", "cost" and "collectives", as in `compiler_report`; or, if its memory is too small,
      "wanted", the bytes that the step needs (None if the compiler does not say). Also "seconds", which compiling took,
      and "compiler", the versions.
    """
    lowered = jit_train_step(recipe, mesh).lower(state, batch)
    compiler = {name: importlib.metadata.version(name) for name in ("jax", "libtpu") if importlib.util.find_spec(name)}
    device = mesh.devices.flat[0]
    identity = (
        _VERSION,
        lowered.as_text(),
        device.device_kind,
        topology,
        compiler,
        compilation.options(recipe.model.dtype, mesh, repeatable=True),
    )
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    cache = cache_dir / "plans" / f"{digest}.json"
    if cache.is_file():
        return json.loads(cache.read_text(encoding="utf-8"))
    duration = "; this takes 2 to 10 minutes for ResNet-152, and is kept" if topology else ""
    say(f"compiling for {mesh.size} {device.device_kind}{duration}")
    start = time.perf_counter()
    try:
        found = compiler_report(_with_progress(lowered), device.platform == "tpu")
    except jax.errors.JaxRuntimeError as error:
        found = {"wanted": _wanted(error)}
    found |= {"seconds": time.perf_counter() - start, "compiler": compiler}
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_json(cache, found)
    return found


def _with_progress(lowered: Any) -> Any:
    """Compiles a lowered program and meanwhile shows the seconds that have passed."""
    compiling = concurrent.futures.ThreadPoolExecutor(1).submit(lowered.compile)
    with bar("compiling", None, "s") as clock:
        while True:
            try:
                return compiling.result(1)
            except concurrent.futures.TimeoutError:
                clock.update()


def _wanted(error: Exception) -> float | None:
    """The bytes that a step needs, from the compiler's error for too little memory; raises any other error again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    wanted = re.search(r"(?:Used |temporaries \()([0-9.]+)([KMG])", str(error))
    return float(wanted[1]) * 2.0 ** {"K": 10, "M": 20, "G": 30}[wanted[2]] if wanted else None


def compiler_report(compiled: Any, is_tpu: bool) -> dict[str, Any]:
    """What the compiler says about a program.

    Args:
      compiled: a `jax.stages.Compiled`.
      is_tpu: whether it is for a TPU, whose compiler also estimates cycles.

    Returns:
      For one device "memory", bytes by their use; "cost", operations, bytes and cycles; and "collectives", as
      `hlo_text.collectives` has them.
    """
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    accessed = cost["bytes accessed"]
    parts = {
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    return {
        "memory": {**parts, "total": sum(parts.values())},
        "cost": {
            "flops": cost["flops"],
            "bytes_accessed": accessed,
            "estimated_cycles": hlo_text.estimated_cycles(text) if is_tpu else None,
            "main_memory_bytes": hlo_text.main_memory_bytes(text) if is_tpu else accessed,
        },
        "collectives": hlo_text.collectives(text),
    }
