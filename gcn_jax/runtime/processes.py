"""Joins the processes that train together, such as the hosts of a TPU slice, through JAX's own runtime."""

import collections
import concurrent.futures
import importlib.util
import os
import sys
import threading
import urllib.request
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import jax

from gcn_jax.console import say
from gcn_jax.errors import UserError

_PATIENCE = 3600  # seconds that JAX may wait. Our timeout ends earlier, with a message, where JAX would abort.

# Variables, after "SLURM_", that `srun` sets for each task of a step. JAX needs all of them except the last two.
_SLURM = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID", "STEP_NUM_TASKS", "STEP_NUM_NODES")


@dataclass(frozen=True)
class Meeting:
    """Where processes meet; ``config.distributed``.

    Attributes:
      coordinator: HOST:PORT, a free port of process 0's host. Empty: SLURM or the TPU slice tells which processes there
        are; without these there is only one.
      num_processes: number of processes in all.
      process_id: this process's number, from 0.
      timeout: seconds that processes wait for each other at the start, and later for one that does not respond.
    """

    coordinator: str
    num_processes: int
    process_id: int
    timeout: int


class Group(NamedTuple):
    """The processes that train together.

    Attributes:
      name: what defines the group, for messages.
      size: number of processes.
      arguments: for `jax.distributed.initialize`.
      advice: what to check if the processes do not meet.
      alone: how to start only one process instead.
    """

    name: str
    size: int
    arguments: dict[str, Any]
    advice: str
    alone: str


def find_group(meeting: Meeting) -> Group | None:
    """The group that this process belongs to, None if it is alone.

    If ``config.distributed`` names a coordinator, the group meets there. Otherwise it is the tasks of a SLURM job step,
    or, outside of one, the hosts of a Cloud TPU slice.
    """
    if not meeting.coordinator:
        return _slurm_step() or _tpu_slice()
    return Group(
        f"config.distributed.coordinator={meeting.coordinator}",
        meeting.num_processes,
        {
            "coordinator_address": meeting.coordinator,
            "num_processes": meeting.num_processes,
            "process_id": meeting.process_id,
            "cluster_detection_method": "deactivate",
        },
        "check the address, which is of process 0's host, and that each process has its own process_id",
        "leave it empty",
    )


def _slurm_step() -> Group | None:
    """The tasks that `srun` started. A batch script or a shell of `salloc` is one task, whatever SLURM_NTASKS says."""
    found = {name: os.environ.get(f"SLURM_{name}", "") for name in _SLURM}
    if not all(found.values()) or found["STEP_NUM_TASKS"] == "1":
        return None
    arguments: dict[str, Any] = {
        "num_processes": int(found["STEP_NUM_TASKS"]),
        "process_id": int(found["PROCID"]),
        "cluster_detection_method": "slurm",
    }
    # JAX gives each task the one GPU whose number is SLURM_LOCALID, which is right if all tasks see the same GPUs. If
    # there is one task per node, it gets all GPUs; a task that sees only one, as with --gpus-per-task=1, gets that one.
    if found["STEP_NUM_TASKS"] == found["STEP_NUM_NODES"] or "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ","):
        arguments["local_device_ids"] = []
    return Group(
        f"SLURM_STEP_NODELIST={found['STEP_NODELIST']}",
        arguments["num_processes"],
        arguments,
        "see whether all tasks of the step run, and whether its nodes reach each other's ports",
        "start it with srun --ntasks=1",
    )


def _tpu_slice() -> Group | None:
    """The hosts of a TPU slice; None if there is only one, which then needs neither a network nor a port."""
    if "tpu" not in (os.environ.get("JAX_PLATFORMS") or "tpu"):
        return None
    method, names = "gketpu", os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if not names and importlib.util.find_spec("libtpu") and "TPU_SKIP_MDS_QUERY" not in os.environ:
        method, names = "gcetpu", _worker_endpoints()  # JAX sets TPU_SKIP_MDS_QUERY on a machine without TPUs
    size = len(names.split(","))
    if size == 1:
        return None
    return Group(
        f"the TPU slice of {names.split(',')[0]}",
        size,
        {"cluster_detection_method": method},
        "start the same command on all hosts of the slice",
        "start it on a machine of its own, or with JAX_PLATFORMS=cpu",
    )


def _worker_endpoints() -> str:
    """The hosts of a slice, separated by commas, as a TPU VM's metadata server tells them; empty if there is none."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"}), timeout=5) as response:
            return response.read().decode()
    except OSError:
        return ""


def join(meeting: Meeting) -> None:
    """Joins the group that this process belongs to; does nothing if it is alone. No device may be used before.

    From then on, if a process does not respond for ``timeout`` seconds, JAX takes it for dead and aborts all others.

    Raises:
      UserError: if not all processes joined in time, or they have different numbers of devices. After this error only
        `leave` ends the process.
    """
    group, timeout = find_group(meeting), meeting.timeout
    if group is None:
        return
    say(f"joining {group.size} processes: {group.name}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    options = {"initialization_timeout": _PATIENCE, "heartbeat_timeout_seconds": timeout}
    joined = _in_thread(jax.distributed.initialize, **group.arguments, **options, shutdown_timeout_seconds=timeout)
    try:
        joined.result(timeout)
    except concurrent.futures.TimeoutError as error:
        raise UserError(
            f"{group.name}: not all {group.size} processes have met there within {timeout} s "
            f"(config.distributed.timeout); {group.advice}"
        ) from error
    except (RuntimeError, ValueError, OSError, ImportError) as error:  # the last two come from a TPU's metadata
        raise UserError(f"{group.name}: {str(error).splitlines()[0]}") from error
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        end_together(f"{group.name}: all processes need the same number of devices. Got {dict(sorted(counts.items()))}")


def _in_thread(function: Any, **arguments: Any) -> concurrent.futures.Future:
    """Calls a function in a thread of its own, for which the process does not wait when it ends."""
    future: concurrent.futures.Future = concurrent.futures.Future()

    def call() -> None:
        try:
            future.set_result(function(**arguments))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def end_together(message: str) -> NoReturn:
    """Raises a `UserError` that all processes raise; each leaves the group first, so that none aborts the others."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    raise UserError(message)


def leave(status: int) -> NoReturn:
    """Exits after an error, with a status; one of several processes exits at once, so that the others notice it."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
