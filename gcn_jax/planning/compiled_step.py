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
from gcn_jax.planning import gpu_text, hlo_text
from gcn_jax.runtime import compilation
from gcn_jax.runtime.mesh import batch_sharding, replicated
from gcn_jax.training.optimizer import split_fixed
from gcn_jax.training.small_arrays import is_joined, join
from gcn_jax.training.step import Recipe, TrainState, init_state, jit_train_step, make_loss, make_train_step

_VERSION = 5  # of the files in cache_dir/plans


def abstract_inputs(recipe: Recipe, mesh: Mesh, batch_size: int, size: int) -> tuple[TrainState, PyTree]:
    """Shapes, dtypes and shardings of a training step's state and batch, without any values.

    Args:
      recipe: of the step.
      mesh: of devices.
      batch_size: number of images in a batch.
      size: height and width of the images, pixels.

    Returns:
      The state, as the step takes it, and the batch, with `jax.ShapeDtypeStruct` as leaves.
    """
    state = jax.eval_shape(lambda v: init_state(v, recipe), variable_shapes(recipe.model))
    state = jax.eval_shape(join, state) if is_joined(mesh) else state
    pixels = (batch_size, size, size)
    images = jax.ShapeDtypeStruct((*pixels, recipe.model.channels), recipe.preprocessing.dtype)
    planes = (recipe.model.num_classes,) if recipe.loss.multi_label else ()
    batch = {"image": images, "label": jax.ShapeDtypeStruct((*pixels, *planes), jnp.uint8)}

    def placed(tree: PyTree, sharding: NamedSharding) -> PyTree:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    batch = placed(batch, batch_sharding(mesh))
    if recipe.model.takes_inside:
        batch |= placed(
            {"inside": jax.ShapeDtypeStruct((batch_size, 4), jnp.int32)}, batch_sharding(mesh, has_rows=False)
        )
    return placed(state, replicated(mesh)), batch


def kept_activations(recipe: Recipe, mesh: Mesh, batch_size: int, size: int) -> int:
    """Bytes per device that grow with the batch: activations kept from the forward pass for the backward pass.

    It is an upper bound for a batch of this size, since the compiler later fuses operations and recomputes cheap ones.

    Args:
      recipe: of the step.
      mesh: of devices.
      batch_size: number of images in a batch.
      size: height and width of the images, pixels.
    """
    loss_fn = make_loss(recipe, is_joined(mesh))

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
    recipe: Recipe,
    mesh: Mesh,
    state: TrainState,
    batch: PyTree,
    described: str,
    cache_dir: pathlib.Path,
    repeatable: bool = True,
) -> dict[str, Any]:
    """Compiles the training step and returns what the compiler says about it.

    The answer is kept in ``cache_dir/plans``, so that the same step is compiled only once.

    Args:
      recipe: of the step.
      mesh: of local devices, or of those of a topology.
      state, batch: from `abstract_inputs`.
      described: how the devices are described to the compiler; empty: they are the local ones.
      cache_dir: the folder for caches.
      repeatable: as for `jit_train_step`.

    Returns:
      For one device what is in `compiler_report`; or, if its memory is too small, "wanted", the bytes that the step
      needs (None if the compiler does not say). Also "seconds", which compiling took, and "compiler", the versions.
    """
    lowered = jit_train_step(recipe, mesh, repeatable).lower(state, batch)
    device = mesh.devices.flat[0]
    compiler = {"jax": importlib.metadata.version("jax")}
    if package := {"tpu": "libtpu", "gpu": "jax_cuda13_plugin"}.get(device.platform):
        compiler |= {package: importlib.metadata.version(package)} if importlib.util.find_spec(package) else {}
    identity = (
        _VERSION,
        lowered.as_text(),
        device.device_kind,
        described,
        compiler,
        compilation.options(recipe.model.dtype, mesh, repeatable),
    )
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    cache = cache_dir / "plans" / f"{digest}.json"
    if cache.is_file():
        return json.loads(cache.read_text(encoding="utf-8"))
    duration = "; this takes 2 to 10 minutes for ResNet-152, and is kept" if described else ""
    say(f"compiling for {mesh.size} {device.device_kind}{duration}")
    start = time.perf_counter()
    try:
        compiled = _with_progress(lowered)
        found = compiler_report(compiled, device.platform)
        if found["cost"]["flops"] is None:
            found["cost"]["flops"] = step_flops(recipe, state, batch, device.platform) / mesh.size
            found["cost"]["flops_from"] = "the step before compiling, over the devices"
    except jax.errors.JaxRuntimeError as error:
        found = {"wanted": _wanted(error)}
    found |= {"seconds": time.perf_counter() - start, "compiler": compiler}
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_json(cache, found)
    return found


def _with_progress(lowered: Any) -> Any:
    """Compiles a lowered program and meanwhile shows the seconds that have passed."""
    compiling = concurrent.futures.ThreadPoolExecutor(1).submit(compiled_without_device, lowered)
    with bar("compiling", None, "s") as clock:
        while True:
            try:
                return compiling.result(1)
            except concurrent.futures.TimeoutError:
                clock.update()


def compiled_without_device(lowered: Any) -> Any:
    """Compiles a lowered program whose devices need not be there.

    For some products XLA (jax 0.10.2) knows tiles for a GPU only by timing them on one. Then all products are calls of
    cuBLAS, and a line says so.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "Couldn't find output tile sizes" not in str(error):
            raise
    say("XLA cannot choose the tiles of a product without a GPU: here all products are calls of cuBLAS")
    return lowered.compile({"xla_gpu_enable_triton_gemm": False})


def _wanted(error: Exception) -> float | None:
    """The bytes that a step needs, from the compiler's error for too little memory; raises any other error again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    wanted = re.search(r"(?:Used |temporaries \()([0-9.]+)([KMG])", str(error))
    return float(wanted[1]) * 2.0 ** {"K": 10, "M": 20, "G": 30}[wanted[2]] if wanted else None


def step_flops(recipe: Recipe, state: TrainState, batch: PyTree, kind: str) -> float:
    """The operations of a whole step in the form for a kind of device, "gpu" or "tpu", before it is compiled."""

    def plain(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    with platform(kind):
        step = make_train_step(recipe, joined=kind != "cpu")  # as `abstract_inputs` has the state
        traced = jax.jit(step).trace(jax.tree.map(plain, state), jax.tree.map(plain, batch))
    return traced.lower(lowering_platforms=("cuda" if kind == "gpu" else kind,)).cost_analysis()["flops"]


def compiler_report(compiled: Any, kind: str) -> dict[str, Any]:
    """What the compiler says about a program.

    Args:
      compiled: a `jax.stages.Compiled`.
      kind: of its devices: "cpu", "gpu" or "tpu". Only a TPU's compiler estimates cycles, and a GPU's neither counts
        operations nor the bytes that are accessed.

    Returns:
      For one device "memory", bytes by their use; "cost", operations, bytes and cycles, None if they are not known;
      "collectives", as `hlo_text.collectives` has them; and for a GPU "launches" and "command_buffers", as in
      `gpu_text`.
    """
    cost, memory, text = compiled.cost_analysis() or {}, compiled.memory_analysis(), compiled.as_text()
    accessed, on_gpu = cost.get("bytes accessed"), kind == "gpu"
    parts = {
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    return {
        "memory": {**parts, "total": sum(parts.values())},
        "cost": {
            "flops": cost.get("flops"),
            "bytes_accessed": accessed,
            "estimated_cycles": hlo_text.estimated_cycles(text) if kind == "tpu" else None,
            "main_memory_bytes": accessed if kind == "cpu" else hlo_text.main_memory_bytes(text),
        },
        "collectives": hlo_text.collectives(text),
        **({"launches": gpu_text.launches(text), "command_buffers": gpu_text.command_buffers(text)} if on_gpu else {}),
    }
