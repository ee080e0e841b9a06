"""``--mode=plan``: what a training step needs and costs, by compiling it, for devices that need not be there."""

import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.errors import UserError
from gcn_jax.files import RunFile, make_workdir, write_json
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.preprocessing import PyTree
from gcn_jax.planning import hlo_text
from gcn_jax.planning.compiled_step import abstract_inputs, compile_step, kept_activations
from gcn_jax.planning.device_limits import device_limits, device_memory
from gcn_jax.runtime.mesh import check_divides, make_mesh
from gcn_jax.tables import aligned

Plan = dict[str, Any]  # what `plan.json` holds


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Prints the plan and writes ``plan.json``.

    Raises:
      UserError: if the topology is unknown, its compiler is not installed, or the mesh does not fit.
    """
    make_workdir(workdir)
    plan = make_plan(config)
    print(plan_table(plan))
    write_json(workdir / RunFile.PLAN, plan)
    say(f"written: {workdir / RunFile.PLAN}")


def make_plan(config: ml_collections.ConfigDict) -> Plan:
    """Compiles a config's training step for ``config.plan.topology``, or for the local devices."""
    topology, sizes = config.plan.topology, (config.batch_size, config.data.size)
    devices = topology_devices(topology) if topology else jax.devices()
    mesh = make_mesh(config.mesh.data, config.mesh.space, devices)
    check_divides(mesh, settings.batch_sizes(config), config.data.size)
    recipe = settings.recipe(config)
    state, batch = abstract_inputs(recipe, mesh, *sizes)
    compiled = compile_step(recipe, mesh, state, batch, topology, settings.cache_dir(config))
    own = compiled.get("memory", {})
    memory = {
        "parameters": bytes_on_a_device(state.params),
        "optimizer_state": bytes_on_a_device(state.opt_state),
        "averaged_parameters": bytes_on_a_device(state.ema_params),
        "batch_norm_statistics": bytes_on_a_device(state.batch_stats),
        "batch": bytes_on_a_device(batch),
        "temporaries": own.get("temporaries"),
        "activations_kept": kept_activations(recipe, mesh, *sizes),
        "program": own.get("program"),
        "total": own.get("total", compiled.get("wanted")),
        "device": device_memory(mesh.devices.flat[0]),
    }
    fits = "memory" in compiled and (memory["device"] is None or memory["total"] <= memory["device"])
    return {
        "topology": config.plan.topology or "local",
        "device": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "size": config.data.size,
        "backbone": config.model.backbone,
        "decoder": config.model.decoder,
        "kernel_size": config.model.kernel_size,
        "dtype": config.model.dtype,
        "remat": config.model.remat,
        "memory": memory,
        "fits": fits,
        "advice": [] if fits else advice(config, mesh, len(devices)),
        "cost": compiled.get("cost", {}),
        "collectives": compiled.get("collectives", {}),
        "bounds": bounds(compiled, mesh, config.batch_size),
        "compile_seconds": compiled["seconds"],
        "compiler": compiled["compiler"],
    }


def topology_devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice such as "v5e:2x4", as libtpu describes them; no TPU is touched."""
    key = f"config.plan.topology={topology}"
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f'{key}: needs the TPU\'s compiler: pip install -c requirements.txt ".[plan]"')
    # What libtpu would ask the machine for, which need not be a TPU's, and complain about.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"{key}: unknown to libtpu ({str(error).splitlines()[0]}); v5e:2x4 are 8 chips, v5e:16x16 256"
        ) from error


def bytes_on_a_device(tree: PyTree) -> int:
    """How many bytes of a tree's arrays one device holds."""
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return sum(jax.ShapeDtypeStruct(shape, dtype).size * dtype.itemsize for shape, dtype in shards)


def bounds(compiled: dict[str, Any], mesh: Mesh, batch_size: int) -> dict[str, float]:
    """Seconds that a step takes at least, by the device's data sheet; empty if there is none, or no program."""
    limits = device_limits(mesh.devices.flat[0])
    if limits is None or "cost" not in compiled:
        return {}
    seconds = {
        "arithmetic_seconds": compiled["cost"]["flops"] / limits.flops,
        "memory_seconds": compiled["cost"]["main_memory_bytes"] / limits.bandwidth,
        "interconnect_seconds": hlo_text.traffic(compiled["collectives"]) / limits.interconnect,
    }
    step = max(seconds.values())
    return {**seconds, "step_seconds": step, "images_per_second": batch_size / step}


def advice(config: ml_collections.ConfigDict, mesh: Mesh, num_devices: int) -> list[str]:
    """What to change if a step does not fit, beginning with what costs least."""
    data, space = mesh.shape["data"], mesh.shape["space"]
    found = []
    if config.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16: half of the activations")
    if config.batch_size > data and not config.optimizer.accumulate > 1:
        steps = config.batch_size // data
        found.append(
            f"--config.batch_size={data} --config.optimizer.accumulate={steps}: the same update in {steps} steps"
        )
    if not config.model.remat:
        found.append("--config.model.remat=True: recomputes the backbone's activations, a third more time")
    rows = config.data.size // STRIDE
    wider = [(s, min(data, num_devices // s)) for s in range(space + 1, num_devices + 1) if rows % s == 0]
    if wider := [(s, d) for s, d in wider if config.batch_size % d == 0]:
        found.append("--config.mesh.space={} --config.mesh.data={}: each image over more devices".format(*wider[0]))
    return [*found, f"--config.data.size={max(config.data.size // 2 // STRIDE, 1) * STRIDE}, or a smaller backbone"]


def plan_table(plan: Plan) -> str:
    """The plan as lines of text."""
    memory, cost, limit = plan["memory"], plan["cost"], plan["bounds"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    gigabytes = {
        "parameters": "parameters",
        "optimizer_state": "optimizer state",
        "averaged_parameters": "averaged parameters",
        "batch_norm_statistics": "batch norm's statistics",
        "batch": "batch",
        "temporaries": "temporaries: activations, gradients, workspace",
        "activations_kept": "... of which activations kept for the backward pass (*)",
        "program": "program",
        "total": "in all, with padding" if plan["fits"] else "in all, at least",
        "device": "the device has",
    }
    rows = [["MEMORY of a device", "GB"]]
    rows += [[text, _giga(memory[key])] for key, text in gigabytes.items() if memory[key] != 0 or key == "temporaries"]
    rows += [["", ""], ["A STEP on a device", ""]]
    rows += [["GFLOPs", _giga(cost.get("flops"), 1)]]
    if cost.get("estimated_cycles"):
        rows.append(["million cycles, as the compiler estimates", f"{cost['estimated_cycles'] / 1e6:.1f}"])
    rows += [["GB from and to main memory (*)", _giga(cost.get("main_memory_bytes"))]]
    rows += [["GB accessed, on the chip, too", _giga(cost.get("bytes_accessed"))]]
    rows += [
        [f"MB in {entry['count']} x {kind}", f"{entry['bytes'] / 1e6:.1f}"]
        for kind, entry in plan["collectives"].items()
    ]
    for key, text in {"arithmetic": "arithmetic", "memory": "memory traffic", "interconnect": "interconnect"}.items():
        rows += [[f"ms of {text} at its peak (*)", f"{limit[f'{key}_seconds'] * 1e3:.2f}"]] if limit else []
    if limit:
        rows.append(["images a second on all devices, at most (*)", f"{limit['images_per_second']:.1f}"])
    verdict = "FITS." if plan["fits"] else "DOES NOT FIT. What would help, beginning with what costs least:"
    decoder = f"k = {plan['kernel_size']}" if plan["decoder"] == "gcn" else plan["decoder"]
    what = f"{plan['backbone']}, {decoder}, {plan['dtype']}{', remat' if plan['remat'] else ''}"
    lines = [
        f"{plan['topology']}, {plan['device']}, mesh {mesh}; {what}; batch {plan['batch_size']} of {plan['size']} px",
        *("", *aligned(rows), ""),
        "(*) a bound: no step is faster, and the compiler may keep less. All other figures are the compiler's.",
        verdict,
        *(f"  {line}" for line in plan["advice"]),
    ]
    return "\n".join(lines)


def _giga(number: float | None, digits: int = 3) -> str:
    return "-" if number is None else f"{number / 1e9:.{digits}f}"
