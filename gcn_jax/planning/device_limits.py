"""The limits of accelerators, from their makers' data sheets."""

import os
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class DeviceLimits:
    """The limits of one device, as JAX counts devices.

    Attributes:
      memory: bytes.
      flops: bfloat16 operations per second.
      bandwidth: of the memory, bytes per second.
      interconnect: of all links to other devices together, bytes per second.
    """

    memory: float
    flops: float
    bandwidth: float
    interconnect: float


# The key is the beginning of `jax.Device.device_kind`; the longest that fits counts. TPUs: cloud.google.com/tpu/docs.
# GPUs: the maker's data sheets (dense bfloat16, NVLink in one direction).
_LIMITS = {
    "TPU v5 lite": DeviceLimits(16 * 2**30, 197e12, 819e9, 200e9),
    "TPU v5": DeviceLimits(95 * 2**30, 459e12, 2765e9, 600e9),
    "TPU v6 lite": DeviceLimits(32 * 2**30, 918e12, 1640e9, 448e9),
    "NVIDIA A100-SXM4-40GB": DeviceLimits(40 * 2**30, 312e12, 1555e9, 300e9),
    "NVIDIA A100-SXM4-80GB": DeviceLimits(80 * 2**30, 312e12, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": DeviceLimits(80 * 2**30, 989e12, 3350e9, 450e9),
    "NVIDIA H200": DeviceLimits(141e9, 989e12, 4800e9, 450e9),
}


def device_limits(device: jax.Device) -> DeviceLimits | None:
    """The limits of a device, None if its kind is not in the table."""
    kinds = [kind for kind in _LIMITS if device.device_kind.startswith(kind)]
    return _LIMITS[max(kinds, key=len)] if kinds else None


def device_memory(device: Any) -> float | None:
    """Bytes of memory that a program may use on a device; None: not known.

    For a GPU it is what the device says, for a TPU what the data sheet says, for a CPU device its share of the host's
    memory. For kinds that are not in the table it is what the device says.
    """
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
    limits = device_limits(device)
    if limits is None or device.client.platform == "gpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit", limits.memory if limits else None)
    return limits.memory
