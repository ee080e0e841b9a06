"""Devices that need not be there, as their compilers describe them."""

import importlib.util
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from gcn_jax.errors import UserError
from gcn_jax.planning import gpu_targets


def is_tpu(topology: str) -> bool:
    """Whether a name is that of a TPU slice, such as "v5e:2x4", not of GPUs."""
    return re.match(r"v\d", topology) is not None


def devices_of(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice, such as "v5e:2x4", or of hosts with GPUs, such as "h100:8"; none is touched.

    Raises:
      UserError: if the topology is unknown, or its compiler is not installed.
    """
    return _tpus(topology) if is_tpu(topology) else _gpus(topology)


def gpu_of(topology: str) -> gpu_targets.GpuTarget | None:
    """The kind of GPU that a topology is made of; None: TPUs, or the local devices."""
    return None if not topology or is_tpu(topology) else gpu_targets.GPUS[gpu_targets.parse(topology)[0]]


def description(topology: str) -> str:
    """All that a compiler gets to know of a topology; empty for the local devices."""
    return f"{topology} {gpu_targets.description(topology.partition(':')[0])}" if gpu_of(topology) else topology


def _tpus(topology: str) -> Sequence[jax.Device]:
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


def _gpus(topology: str) -> Sequence[jax.Device]:
    key = f"config.plan.topology={topology}"
    card, hosts, devices = gpu_targets.parse(topology)
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError(
            f"{key}: needs the compiler for NVIDIA's GPUs, best in an environment of its own: "
            f'pip install -c requirements.txt ".[plan-cuda]"'
        )
    # Without a driver JAX would not load the compiler. It reads both when it starts, before its first device.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    shape = f"1x{hosts}x{devices}"
    try:
        description = gpu_targets.description(card)
        return topologies.get_topology_desc(platform="cuda", target_config=description, topology=shape).devices
    except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
        raise UserError(f"{key}: the compiler cannot be used ({str(error).splitlines()[0]})") from error
