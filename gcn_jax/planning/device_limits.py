"""The limits of accelerators, from their makers' data sheets."""

import os
from dataclasses import dataclass
from typing import Any

import jax

from gcn_jax.planning import gpu_targets


@dataclass(frozen=True)
class DeviceLimits:
    """The limits of one device, as JAX counts devices.

    Attributes:
      memory: bytes.
      flops: bfloat16 operations per second.
      bandwidth: of the memory, bytes per second.
      interconnect: of all links to other devices together, bytes per second.
      float32_flops: float32 operations per second; None: XLA computes float32 at the rate of bfloat16.
    """

    memory: float
    flops: float
    bandwidth: float
    interconnect: float
    float32_flops: float | None = None

    def flops_of(self, dtype: str) -> float:
        """Operations per second in a dtype, "bfloat16" or "float32"."""
        return self.float32_flops or self.flops if dtype == "float32" else self.flops


# The key is the beginning of `jax.Device.device_kind`; the longest that fits counts. From cloud.google.com/tpu/docs.
_TPUS = {
    "TPU v5 lite": DeviceLimits(16 * 2**30, 197e12, 819e9, 200e9),
    "TPU v5": DeviceLimits(95 * 2**30, 459e12, 2765e9, 600e9),
    "TPU v6 lite": DeviceLimits(32 * 2**30, 918e12, 1640e9, 448e9),
}
_GPUS = {  # the key is the whole device_kind: a "Laptop GPU", "Ti" or "PCIe" of the same number is another device
    gpu.kind: DeviceLimits(
        gpu.memory, gpu.flops or gpu.float32_flops, gpu.bandwidth, gpu.link_bandwidth, gpu.float32_flops
    )
    for gpu in gpu_targets.GPUS.values()
}


def device_limits(device: jax.Device) -> DeviceLimits | None:
    """The limits of a device, None if its kind is not in the table."""
    if device.device_kind in _GPUS:
        return _GPUS[device.device_kind]
    kinds = [kind for kind in _TPUS if device.device_kind.startswith(kind)]
    return _TPUS[max(kinds, key=len)] if kinds else None


def device_memory(device: Any) -> float | None:
    """Bytes of memory that a program may use on a device; None: not known.

    For a GPU it is what the device says, or, if it is only described, the share of its memory that JAX takes; for a TPU
    what the data sheet says; for a CPU device its share of the host's memory. For kinds that are not in the table it is
    what the device says.
    """
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
    limits = device_limits(device)
    if limits is not None and device.client.platform != "gpu":
        return limits.memory
    try:
        stats = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # it is only described
        stats = {"bytes_limit": gpu_targets.SHARE * limits.memory} if limits else {}
    return stats.get("bytes_limit", limits.memory if limits else None)
