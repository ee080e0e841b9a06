"""``--mode=plan``: what a training step needs and costs, by compiling it, for devices that need not be there."""

import pathlib
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from gcn_jax.config import settings
from gcn_jax.console import say
from gcn_jax.files import RunFile, make_workdir, write_json
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.preprocessing import PyTree
from gcn_jax.planning import gpu_targets, hlo_text
from gcn_jax.planning.compiled_step import abstract_inputs, compile_step, kept_activations
from gcn_jax.planning.device_limits import device_limits, device_memory
from gcn_jax.planning.topologies import description, devices_of, gpu_of
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
    devices = devices_of(topology) if topology else jax.devices()
    mesh = make_mesh(config.mesh.data, config.mesh.space, devices)
    check_divides(mesh, settings.batch_sizes(config), config.data.size)
    recipe = settings.recipe(config)
    state, batch = abstract_inputs(recipe, mesh, *sizes)
    cache_dir = settings.cache_dir(config)
    compiled = compile_step(recipe, mesh, state, batch, description(topology), cache_dir, config.repeatable)
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
        "repeatable": config.repeatable,
        "memory": memory,
        "fits": fits,
        "advice": [*gpu_advice(config, memory, fits), *([] if fits else advice(config, mesh, len(devices)))],
        "cost": compiled.get("cost", {}),
        "collectives": compiled.get("collectives", {}),
        "launches": compiled.get("launches", {}),
        "command_buffers": compiled.get("command_buffers", {}),
        "bounds": bounds(compiled, mesh, config.batch_size, config.model.dtype),
        "estimates": estimates(compiled, mesh),
        "compile_seconds": compiled["seconds"],
        "compiler": compiled["compiler"],
    }


def bytes_on_a_device(tree: PyTree) -> int:
    """How many bytes of a tree's arrays one device holds."""
    shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return sum(jax.ShapeDtypeStruct(shape, dtype).size * dtype.itemsize for shape, dtype in shards)


def bounds(compiled: dict[str, Any], mesh: Mesh, batch_size: int, dtype: str) -> dict[str, float]:
    """Seconds that a step takes at least, by the device's data sheet; empty if there is none, or no program.

    A GPU's memory traffic is none of them, since a cache may serve it; see `estimates`.
    """
    limits = device_limits(mesh.devices.flat[0])
    if limits is None or "cost" not in compiled:
        return {}
    seconds = {
        "arithmetic_seconds": compiled["cost"]["flops"] / limits.flops_of(dtype),
        "memory_seconds": compiled["cost"]["main_memory_bytes"] / limits.bandwidth,
        "interconnect_seconds": hlo_text.traffic(compiled["collectives"]) / limits.interconnect,
    }
    if "launches" in compiled:
        del seconds["memory_seconds"]
    step = max(seconds.values())
    return {**seconds, "step_seconds": step, "images_per_second": batch_size / step}


def estimates(compiled: dict[str, Any], mesh: Mesh) -> dict[str, float]:
    """Seconds of a GPU's memory traffic, if no cache served any, and of its launches; empty for other devices."""
    limits = device_limits(mesh.devices.flat[0])
    if limits is None or "launches" not in compiled:
        return {}
    return {
        "memory_seconds": compiled["cost"]["main_memory_bytes"] / limits.bandwidth,
        "launch_seconds": gpu_targets.launch_seconds(compiled["launches"], compiled["command_buffers"]),
    }


def gpu_advice(config: ml_collections.ConfigDict, memory: dict[str, Any], fits: bool) -> list[str]:
    """What helps on the GPU that is planned for, and on no other device."""
    gpu = gpu_of(config.plan.topology)
    if gpu is None:
        return []
    found = []
    if fits and gpu.flops is None and config.model.dtype == "bfloat16":
        found.append(
            f"--config.model.dtype=float32: a {gpu.kind} has no units for bfloat16, so XLA computes it in float32"
        )
    if not fits and memory["total"] is not None and memory["total"] < 0.9 * gpu.memory:
        found.append("XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 in the environment: JAX takes 0.75 of a GPU's memory without")
    return found


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
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    verdict = "FITS." if plan["fits"] else "DOES NOT FIT. What would help, beginning with what costs least:"
    decoder = f"k = {plan['kernel_size']}" if plan["decoder"] == "gcn" else plan["decoder"]
    what = f"{plan['backbone']}, {decoder}, {plan['dtype']}{', remat' if plan['remat'] else ''}"
    rows = [*_memory_rows(plan), ["", ""], *_step_rows(plan)]
    notes = ["(*) a bound: no step is faster, and the compiler may keep less. All other figures are the compiler's."]
    if plan["launches"]:
        rows += [["", ""], *_launch_rows(plan)]
        alone, captured = (round(1e6 * seconds) for seconds in (gpu_targets.LAUNCH, gpu_targets.CAPTURED_LAUNCH))
        notes = [
            "(*) a bound: no step is faster, and the compiler may keep less. (+) counted before compiling.",
            f"(~) an estimate: no cache serves traffic; a launch takes {alone} us, in a command buffer {captured} us.",
            "All other figures are the compiler's, without cuDNN's workspace, chosen on a device. Nothing is measured.",
        ]
    lines = [
        f"{plan['topology']}, {plan['device']}, mesh {mesh}; {what}; batch {plan['batch_size']} of {plan['size']} px",
        *("", *aligned(rows), ""),
        *notes,
        verdict,
        *(f"  {line}" for line in plan["advice"]),
    ]
    return "\n".join(lines)


def _memory_rows(plan: Plan) -> list[list[str]]:
    memory, is_described = plan["memory"], plan["topology"] != "local"
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
        "device": f"JAX takes, {gpu_targets.SHARE} of all" if plan["launches"] and is_described else "the device has",
    }
    rows = [[text, _giga(memory[key])] for key, text in gigabytes.items() if memory[key] != 0 or key == "temporaries"]
    return [["MEMORY of a device", "GB"], *rows]


def _step_rows(plan: Plan) -> list[list[str]]:
    cost, seconds = plan["cost"], plan["bounds"] | plan["estimates"]
    uncertain = "~" if plan["launches"] else "*"
    rows = [["A STEP on a device", ""]]
    rows += [["GFLOPs (+)" if "flops_from" in cost else "GFLOPs", _giga(cost.get("flops"), 1)]]
    if cost.get("estimated_cycles"):
        rows.append(["million cycles, as the compiler estimates", f"{cost['estimated_cycles'] / 1e6:.1f}"])
    rows += [[f"GB from and to main memory ({uncertain})", _giga(cost.get("main_memory_bytes"))]]
    if not plan["launches"]:
        rows += [["GB accessed, on the chip, too", _giga(cost.get("bytes_accessed"))]]
    rows += [
        [f"MB in {entry['count']} x {kind}", f"{entry['bytes'] / 1e6:.1f}"]
        for kind, entry in plan["collectives"].items()
    ]
    gpu = gpu_of(plan["topology"]) if plan["topology"] != "local" else None
    texts = {
        "arithmetic": "arithmetic at its peak (*)",
        "memory": f"memory traffic at its peak ({uncertain})",
        "launch": "launches (~)",
        "interconnect": f"{gpu.link if gpu else 'interconnect'} at its peak (*)",
    }
    for key, text in texts.items():
        if f"{key}_seconds" in seconds:
            rows.append([f"ms of {text}", f"{seconds[f'{key}_seconds'] * 1e3:.2f}"])
    if seconds:
        rows.append(["images a second on all devices, at most (*)", f"{seconds['images_per_second']:.1f}"])
    return rows


def _launch_rows(plan: Plan) -> list[list[str]]:
    captured = plan["command_buffers"]
    return [
        ["LAUNCHES of a step on a device", f"{sum(plan['launches'].values())}"],
        *([f"... {kind}", f"{count}"] for kind, count in plan["launches"].items()),
        [f"of all, in {captured['count']} command buffers", f"{captured['launches']}"],
    ]


def _giga(number: float | None, digits: int = 3) -> str:
    return "-" if number is None else f"{number / 1e9:.{digits}f}"
