"""`--mode=plan` for GPUs that are not there, as far as it needs no compiler for them; see `test_gpu_compile`."""

import importlib.util
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gcn_jax.errors import UserError
from gcn_jax.modes import plan
from gcn_jax.planning import gpu_targets, gpu_text, hlo_text
from gcn_jax.planning.device_limits import device_limits, device_memory
from gcn_jax.planning.topologies import description

# A program for a GPU (jax 0.10.2), shortened.
PROGRAM = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %z = f32[] add(%x, %y)
}

%dot_computation (a: bf16[256,4], b: bf16[4,20]) -> bf16[256,20] {
  ROOT %dot.79 = bf16[256,20]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%gemm_fusion (a: bf16[256,4], b: bf16[4,20]) -> bf16[256,20] {
  %c = bf16[4,20]{1,0} add(%b, %b)
  ROOT %dot.80 = bf16[256,20]{1,0} fusion(%a, %c), kind=kCustom, calls=%dot_computation
}

%fused_reduce (a: f32[256,20]) -> f32[20] {
  %zero = f32[] constant(0)
  ROOT %sum = f32[20]{0} reduce(%a, %zero), dimensions={0}, to_apply=%add
}

%fused_transpose (k: f32[1,3,6,6]) -> bf16[6,1,3,6] {
  %c = bf16[1,3,6,6]{3,2,1,0} convert(%k)
  ROOT %t = bf16[6,1,3,6]{3,2,1,0} transpose(%c), dimensions={3,0,1,2}
}

%fused_convert (b: f32[6]) -> bf16[6] {
  ROOT %c = bf16[6]{0} convert(%b)
}

%fused_concatenate (b: f32[6]) -> bf16[12] {
  %c = bf16[6]{0} convert(%b)
  ROOT %two = bf16[12]{0} concatenate(%c, %c), dimensions={0}
}

%fused_maximum (b: bf16[6]) -> bf16[6] {
  ROOT %c = bf16[6]{0} maximum(%b, %b)
}

ENTRY %main (k: f32[1,3,6,6], b: f32[6], x: bf16[1,8,8,6]) -> (bf16[1,8,8,6], bf16[6]) {
  %k = f32[1,3,6,6]{3,2,1,0} parameter(0)
  %b = f32[6]{0} parameter(1)
  %x = bf16[1,8,8,6]{3,2,1,0} parameter(2)
  %t = bf16[6,1,3,6]{3,2,1,0} fusion(%k), kind=kLoop, calls=%fused_transpose
  %wrapped_convert = bf16[6]{0} fusion(%b), kind=kLoop, calls=%fused_convert
  %loop_convert_fusion.2 = bf16[6]{0} fusion(%b), kind=kLoop, calls=%fused_convert
  %two = bf16[12]{0} fusion(%b), kind=kInput, calls=%fused_concatenate
  %copy.3 = f32[6]{0} copy(%b)
  %conv.1 = (bf16[1,8,8,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %t, %wrapped_convert), window={size=1x3 pad=0_0x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward", backend_config={"operation":"(x)"}
  %y = bf16[1,8,8,6]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %v = bf16[256,4]{1,0} bitcast(%y)
  %p = bf16[256,20]{1,0} fusion(%v, %two), kind=kCustom, calls=%gemm_fusion
  %s = f32[20]{0} fusion(%p), kind=kInput, calls=%fused_reduce
  %all-reduce-start = f32[20]{0} all-reduce-start(%s), to_apply=%add
  %all-reduce-done = f32[20]{0} all-reduce-done(%all-reduce-start)
  %m = bf16[6]{0} fusion(%loop_convert_fusion.2), kind=kLoop, calls=%fused_maximum
  ROOT %out = (bf16[1,8,8,6]{3,2,1,0}, bf16[6]{0}) tuple(%y, %m)
}
"""
KINDS = {"convolution": 1, "product": 1, "reduction": 1, "elementwise": 1, "transpose": 1, "copy": 2, "cast": 2}


def test_launches_are_counted_by_kind():
    found = gpu_text.launches(PROGRAM)
    assert found == KINDS | {"all-reduce": 1}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_command_buffers_hold_runs_of_five_launches_that_are_no_convolutions():
    assert gpu_text.command_buffers(PROGRAM) == {"count": 1, "launches": 5}
    assert gpu_text.command_buffers(PROGRAM.replace("  %copy.3 = f32[6]{0} copy(%b)\n", "")) == {
        "count": 0,
        "launches": 0,
    }


def test_the_bytes_of_a_gpus_text():
    """What each launch reads and writes; the result of an all-reduce's start, unlike other starts', is no tuple."""
    kernel, bias, x, p = 108 * 4, 6 * 4, 64 * 6 * 2, 256 * 20 * 2
    casts = 2 * (bias + 12) + (bias + 24) + 2 * bias  # two, a concatenation, a copy
    convolution = x + 108 * 2 + 12 + x
    product, reduction, exchange, maximum = 256 * 4 * 2 + 24 + p, p + 80, 2 * 80, 2 * 12
    expected = kernel + kernel // 2 + casts + convolution + product + reduction + exchange + maximum
    assert hlo_text.main_memory_bytes(PROGRAM) == expected


def test_a_slice_reads_only_what_it_copies():
    """By itself, not together with anything else."""
    computation = (
        "%wrapped_slice (p: bf16[256,20]) -> bf16[2,20] {\n  %p = bf16[256,20]{1,0} parameter(0)\n"
        "  ROOT %part = bf16[2,20]{1,0} slice(%p), slice={[0:2], [0:20]}\n}\n\n"
    )
    line = "%w = bf16[2,20]{1,0} fusion(%p), kind=kLoop, calls=%wrapped_slice\n  %s = "
    text = computation + PROGRAM.replace("%s = ", line)
    before, part = hlo_text.main_memory_bytes(PROGRAM), 2 * 20 * 2
    assert hlo_text.main_memory_bytes(text) == before + 2 * part
    negated = text.replace("ROOT %part", "%n = bf16[256,20]{1,0} negate(%p)\n  ROOT %part").replace(
        "slice(%p)", "slice(%n)"
    )
    assert hlo_text.main_memory_bytes(negated) == before + part + 256 * 20 * 2


def test_operations_that_are_not_repeatable_are_found_in_all_computations():
    assert gpu_text.not_repeatable(PROGRAM) == []
    for operation, attributes, names in (
        ("scatter", "unique_indices=false, to_apply=%add", ["bad.1"]),
        ("scatter", "to_apply=%add", ["bad.1"]),
        ("scatter", "unique_indices=true, to_apply=%add", []),
        ("select-and-scatter", "select=%ge, scatter=%add", ["bad.1"]),
    ):
        line = f"%bad.1 = f32[20]{{0}} {operation}(%a, %i, %u), {attributes}\n  ROOT %sum"
        assert gpu_text.not_repeatable(PROGRAM.replace("ROOT %sum", line)) == names


def test_names_of_topologies():
    assert gpu_targets.parse("h100") == ("h100", 1, 1)
    assert gpu_targets.parse("rtx4090:2") == ("rtx4090", 1, 2)
    assert gpu_targets.parse("a100-40:16x8") == ("a100-40", 16, 8)


@pytest.mark.parametrize(
    "wrong", ["h100:0", "h100:8x", "h100:", "h100:2x0", "h100:x8", "h100:2x2x2", "h100:-1", "t4:٣"]
)
def test_a_wrong_number_of_gpus_says_how_it_is_written(config, wrong):
    config.plan.topology = wrong
    card = wrong.partition(":")[0]
    expected = f"config.plan.topology={wrong}: after the colon comes a number of devices, {card}:8, or hosts x devices"
    with pytest.raises(UserError, match=re.escape(expected)):
        plan.make_plan(config)


@pytest.mark.parametrize("wrong", ["h900:8", "H100:8", "8", ":8", "nvidia", "h100 :8", "tpu:8"])
def test_an_unknown_card_names_those_that_are_known(config, wrong):
    config.plan.topology = wrong
    with pytest.raises(
        UserError, match=re.escape(f"config.plan.topology={wrong}: unknown; known are the GPUs")
    ) as error:
        plan.make_plan(config)
    assert all(
        card in str(error.value) for card in ("a100", "h100", "h200", "b200", "l4", "l40s", "rtx3090", "t4", "v5e")
    )


def test_without_the_gpus_compiler_it_says_how_to_get_it(config, monkeypatch):
    config.plan.topology = "h100:8"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "cuda" in name else find(name))
    with pytest.raises(UserError, match=r"config\.plan\.topology=h100:8: needs .*environment.*pip install .*plan-cuda"):
        plan.make_plan(config)


def device(kind):
    return SimpleNamespace(device_kind=kind, platform="gpu", client=SimpleNamespace(platform="gpu"))


def test_the_limits_are_those_of_exactly_this_device():
    """Others have the same beginning: RTX 4090 Laptop, RTX 3090 Ti, L40 beside L4."""
    limits = device_limits(device("NVIDIA GeForce RTX 4090"))
    assert (limits.flops_of("bfloat16"), limits.flops_of("float32")) == (165.2e12, 82.6e12)
    for other in (
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA L40",
        "NVIDIA A100-PCIE-40GB",
    ):
        assert device_limits(device(other)) is None
    assert device_limits(device("TPU v5 lite")).flops_of("float32") == 197e12
    t4 = device_limits(device("Tesla T4"))
    assert t4.flops_of("bfloat16") == t4.flops_of("float32") == 8.1e12, "it has no units for bfloat16"
    assert len({gpu.kind for gpu in gpu_targets.GPUS.values()}) == len(gpu_targets.GPUS)


@pytest.mark.parametrize("card", gpu_targets.GPUS)
def test_a_card_is_described_as_its_data_sheet_has_it(card):
    """Figures that follow from others: the units' float32 peak, and the memory of the name."""
    gpu, text = gpu_targets.GPUS[card], gpu_targets.description(card)
    for field in ("core_count", "memory_bandwidth", "l2_cache_size", "device_memory_size", "cuda_compute_capability"):
        assert text.count(field) == 1
    assert f'device_description_str: "{gpu.kind}"' in text
    assert text.count("{") == text.count("}")
    plain = 2 * gpu.cores * gpu.units * gpu.clock * 1e9  # without tensor cores, a multiplication and an addition each
    assert plain * 0.99 <= gpu.float32_flops <= 17 * plain
    if gpu.flops:
        np.testing.assert_allclose(gpu.flops, 2 * gpu.float32_flops, rtol=0.02)


COMPILED = {
    "cost": {"flops": 989e9, "main_memory_bytes": 3.35232e9},
    "collectives": {"all-reduce": {"count": 1, "bytes": 450_000_000}},
    "launches": {"cast": 100, "convolution": 20},
    "command_buffers": {"count": 3, "launches": 60},
}


def test_bounds_and_estimates_are_kept_apart():
    mesh = SimpleNamespace(devices=np.array([[device("NVIDIA H100 80GB HBM3")]]))
    bounds = plan.bounds(COMPILED, mesh, 8, "bfloat16")
    np.testing.assert_allclose(bounds["arithmetic_seconds"], 1e-3)
    np.testing.assert_allclose(bounds["interconnect_seconds"], 2e-3)
    np.testing.assert_allclose(bounds["images_per_second"], 8 / 2e-3)
    assert "memory_seconds" not in bounds, "a cache may serve a part of the traffic"
    np.testing.assert_allclose(plan.bounds(COMPILED, mesh, 8, "float32")["arithmetic_seconds"], 2e-3)
    estimates = plan.estimates(COMPILED, mesh)
    np.testing.assert_allclose(estimates["memory_seconds"], 1e-3)
    np.testing.assert_allclose(estimates["launch_seconds"], (60 + 3) * 2e-6 + 60 * 1e-6)
    assert not set(bounds) & set(estimates)


def advice(config, topology, dtype, total, fits):
    config.plan.topology, config.model.dtype = topology, dtype
    return plan.gpu_advice(config, {"total": total}, fits)


def test_advice_for_a_gpu(config):
    assert advice(config, "h100", "bfloat16", 1e9, fits=True) == []
    assert "--config.model.dtype=float32" in advice(config, "t4", "bfloat16", 1e9, fits=True)[0]
    assert advice(config, "t4", "float32", 1e9, fits=True) == []
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.9" in advice(config, "t4", "float32", 13e9, fits=False)[0]
    assert advice(config, "t4", "float32", 20e9, fits=False) == []
    assert advice(config, "v5e:2x4", "bfloat16", 20e9, fits=False) == advice(config, "", "float32", 1, fits=False) == []


def test_what_is_kept_depends_on_how_a_card_is_described(monkeypatch):
    before = description("h100:8")
    assert before.startswith("h100:8 ")
    assert (description("v5e:2x4"), description("")) == ("v5e:2x4", "")
    monkeypatch.setitem(gpu_targets.GPUS, "h100", gpu_targets.GPUS["a100"])
    assert description("h100:8") != before


@pytest.mark.parametrize("kind", ["NVIDIA H100 80GB HBM3", "NVIDIA made up"])
def test_a_described_gpu_has_the_memory_that_jax_takes(kind):
    def refuse():
        raise jax.errors.JaxRuntimeError(
            "INVALID_ARGUMENT: MemoryStats is only supported for addressable PjRt devices."
        )

    described = device(kind)
    described.memory_stats = refuse
    assert device_memory(described) == (0.75 * 84942979072 if "H100" in kind else None)
    described.memory_stats = lambda: {"bytes_limit": 7}
    assert device_memory(described) == 7
