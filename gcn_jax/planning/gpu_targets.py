"""NVIDIA's GPUs, as their compiler needs to know them, and with the limits of their data sheets."""

import re
from dataclasses import dataclass

from gcn_jax.errors import UserError

NVLINK, PCIE = "NVLink", "PCIe"
SHARE = 0.75  # of a GPU's memory, which JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise

# Seconds from one launch to the next, at least, by itself and within a command buffer: assumed, not from a data sheet.
LAUNCH, CAPTURED_LAUNCH = 2e-6, 1e-6


@dataclass(frozen=True)
class GpuTarget:
    """A kind of GPU.

    Attributes:
      kind: what its driver, and so `jax.Device.device_kind`, calls it.
      capability: CUDA's compute capability, major and minor.
      cores: streaming multiprocessors.
      units: float32 units of a multiprocessor.
      threads: the most threads on a multiprocessor.
      shared_memory: bytes of shared memory of a multiprocessor.
      l2_cache: bytes.
      clock: the boost clock, GHz.
      memory: bytes, as the driver reports them.
      bandwidth: of the memory, bytes per second.
      flops: operations per second of dense bfloat16 products that are added up in float32; None: it has no such units.
      float32_flops: the same for float32, which XLA computes as TF32 where there is such a unit.
      link: how it reaches other GPUs of its host.
      link_bandwidth: of all its links together, in one direction, bytes per second.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    units: int
    threads: int
    shared_memory: int
    l2_cache: int
    clock: float
    memory: int
    bandwidth: float
    flops: float | None
    float32_flops: float
    link: str
    link_bandwidth: float


# A100, H100, H200 and B200: XLA's own descriptions of them (openxla/xla, xla/backends/gpu/target_config/specs); their
# operations and links, and all of the other cards: published specifications that quote NVIDIA's data sheets. Operations
# are dense, half of those "with sparsity"; PCIe: 16 lanes. GeForce adds up in float32 at half the rate that is stated
# for float16 (RTX 3090: 142 TFLOP/s), and computes TF32 at a quarter of it.
GPUS = {
    "a100": GpuTarget(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 167936, 41943040, 1.41, 85100068864, 2039.04e9,
        312e12, 156e12, NVLINK, 300e9,
    ),
    "a100-40": GpuTarget(
        "NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 167936, 41943040, 1.41, 42331013120, 1555.2e9,
        312e12, 156e12, NVLINK, 300e9,
    ),
    "h100": GpuTarget(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 233472, 52428800, 1.98, 84942979072, 3352.32e9,
        989e12, 494.5e12, NVLINK, 450e9,
    ),
    "h200": GpuTarget(
        "NVIDIA H200", (9, 0), 132, 128, 2048, 233472, 52428800, 1.98, 151397597184, 4800e9,
        989e12, 494.5e12, NVLINK, 450e9,
    ),
    "b200": GpuTarget(
        "NVIDIA B200", (10, 0), 148, 128, 2048, 233472, 132644864, 1.965, 191514411008, 7672.32e9,
        2250e12, 1125e12, NVLINK, 900e9,
    ),
    "l4": GpuTarget(
        "NVIDIA L4", (8, 9), 58, 128, 1536, 102400, 50331648, 2.04, 24152899584, 300e9,
        121e12, 60e12, PCIE, 31.5e9,
    ),
    "l40s": GpuTarget(
        "NVIDIA L40S", (8, 9), 142, 128, 1536, 102400, 100663296, 2.52, 48305799168, 864e9,
        362e12, 183e12, PCIE, 31.5e9,
    ),
    "rtx4090": GpuTarget(
        "NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 1536, 102400, 75497472, 2.52, 25757220864, 1008e9,
        165.2e12, 82.6e12, PCIE, 31.5e9,
    ),
    "rtx3090": GpuTarget(
        "NVIDIA GeForce RTX 3090", (8, 6), 82, 128, 1536, 102400, 6291456, 1.695, 25769803776, 936e9,
        71e12, 35.6e12, PCIE, 31.5e9,
    ),
    "t4": GpuTarget(
        "Tesla T4", (7, 5), 40, 64, 1024, 65536, 4194304, 1.59, 16106127360, 320e9,
        None, 8.1e12, PCIE, 15.75e9,
    ),
}  # fmt: skip


def parse(topology: str) -> tuple[str, int, int]:
    """The card, the number of hosts and that of the devices of each, of such as "h100", "h100:8" or "h100:2x8".

    Raises:
      UserError: if the card is unknown, or there is no such number.
    """
    key = f"config.plan.topology={topology}"
    card, colon, counts = topology.partition(":")
    if card not in GPUS:
        raise UserError(f"{key}: unknown; known are the GPUs {', '.join(GPUS)}, and TPU slices such as v5e:2x4")
    form = re.fullmatch(r"(?:([1-9]\d{0,3})x)?([1-9]\d{0,3})", counts if colon else "1")
    if form is None:
        raise UserError(f"{key}: after the colon comes a number of devices, {card}:8, or hosts x devices, {card}:2x8")
    return card, int(form[1] or 1), int(form[2])


def description(card: str) -> str:
    """The text of XLA's `GpuTargetConfigProto` for a card of the table."""
    gpu = GPUS[card]
    reserved = 1024 if gpu.capability >= (8, 0) else 0  # bytes of shared memory that CUDA keeps of each block's
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_block_optin": gpu.shared_memory - reserved,
        "shared_memory_per_core": gpu.shared_memory,
        "threads_per_core_limit": gpu.threads,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": int(gpu.bandwidth),
        "device_memory_size": gpu.memory,
        "l2_cache_size": gpu.l2_cache,
        "clock_rate_ghz": gpu.clock,
    }
    major, minor = gpu.capability
    numbers = " ".join(f"{name}: {value}" for name, value in fields.items())
    return (
        f"gpu_device_info {{ {numbers} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 28 }} runtime_version {{ major: 13 }} '
        f'device_description_str: "{gpu.kind}"'
    )


def launch_seconds(launches: dict[str, int], command_buffers: dict[str, int]) -> float:
    """How long a step's launches take at least, by an assumption; both as `gpu_text` counts them."""
    captured = command_buffers["launches"]
    alone = sum(launches.values()) - captured + command_buffers["count"]
    return alone * LAUNCH + captured * CAPTURED_LAUNCH
