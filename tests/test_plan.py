"""`--mode=plan`: what a step needs, against closed forms; for a TPU where its compiler is installed."""

import importlib.util
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gcn_jax import config as config_lib
from gcn_jax.config import settings
from gcn_jax.errors import UserError
from gcn_jax.modes import plan
from gcn_jax.planning.hlo_text import collectives, estimated_cycles, main_memory_bytes, traffic
from gcn_jax.runtime import compilation
from tests import command_line
from tests.helpers import check_mesh, mesh_of


def shapes(config):
    """Path -> shape of each parameter."""
    variables = jax.eval_shape(config_lib.model_from(config).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    return {tuple(entry.key for entry in path): leaf.shape for path, leaf in leaves}


@pytest.mark.slow
def test_data_parallel_exchanges_the_gradients_and_nothing_else(config, monkeypatch):
    config.batch_size = 8
    found = plan.make_plan(config)
    assert found["mesh"] == {"data": 8, "space": 1}
    parameters = shapes(config)
    num_parameters = sum(map(math.prod, parameters.values()))
    assert found["memory"]["parameters"] == 4 * num_parameters
    assert found["memory"]["optimizer_state"] == 4 * num_parameters + 4, "momentum, number of updates"
    assert found["memory"]["batch"] == 64 * 64 * (3 + 1), "of one of eight images"
    assert found["fits"]
    # A fixed norm's scale has its gradient from that of the kernel it is folded into, the same on all devices; a
    # deconvolution is computed, and so has its gradient, as 3x3 kernels to 2x2 pixels: 36 numbers for 16.
    exchanged = {path: math.prod(shape) for path, shape in parameters.items() if path[-1] != "scale"}
    exchanged |= {path: 36 * n // 16 for path, n in exchanged.items() if parameters[path][:2] == (4, 4)}
    assert list(found["collectives"]) == ["all-reduce"], "no activation is gathered"
    scalars = found["collectives"]["all-reduce"]["bytes"] - 4 * sum(exchanged.values())
    assert 0 < scalars <= 16, "the loss and the number of its pixels"

    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    assert plan.make_plan(config) == found, "what was compiled is kept"
    config.model.kernel_size = 5
    with pytest.raises(TypeError):
        plan.make_plan(config)


@pytest.mark.slow
def test_an_image_over_eight_devices_needs_an_eighth_of_the_activations(config):
    """Of the temporaries the gradients do not shrink; with halos the rest is somewhat more than an eighth."""
    config.batch_size, config.data.size, config.model.kernel_size = 1, 512, 15
    memory = {}
    for space in (1, 8):
        config.mesh.update(data=1, space=space)
        memory[space] = plan.make_plan(config)["memory"]
        memory[space]["shrinking"] = memory[space]["temporaries"] - memory[space]["parameters"]
    assert memory[8]["parameters"] == memory[1]["parameters"]
    assert memory[8]["shrinking"] <= memory[1]["shrinking"] / 4
    assert 8 * memory[8]["activations_kept"] <= memory[1]["activations_kept"]


def activations_kept(config):
    sizes = (config.batch_size, config.data.size)
    return plan.kept_activations(settings.recipe(config), mesh_of(config), *sizes)


@pytest.mark.slow
def test_activations_grow_with_the_batch_and_shrink_with_remat(config):
    def kept(**changes):
        config.update(changes)
        config.mesh.data = 1
        return activations_kept(config)

    small, large = kept(batch_size=1), kept(batch_size=4)
    assert large == 4 * small
    features = 4 * 4 * sum(4 * (64 // s) ** 2 * 2**i for i, s in enumerate((4, 8, 16, 32)))
    assert small >= features, "each stage's output is kept"
    config.model.remat = True
    assert kept(batch_size=4) < large


@pytest.mark.slow
def test_activations_of_other_platforms_forms_are_not_counted(config, monkeypatch):
    config.mesh.data = 1
    kept = activations_kept(config)
    monkeypatch.setattr(compilation, "platform_of", lambda mesh: None)
    assert kept < 0.9 * activations_kept(config)


def test_collectives_are_counted_with_their_bytes(config):
    """Each kind in a program of its own, 8 devices that hold [4, 6] each."""
    mesh = mesh_of(config)
    devices, axis, own = 8, "data", 4 * 6 * 4
    ring = [(i, (i + 1) % devices) for i in range(devices)]
    cases = {
        "all-reduce": (lambda x: jax.lax.psum(x, axis), own),
        "all-gather": (lambda x: jax.lax.all_gather(x, axis), devices * own),
        "collective-permute": (lambda x: jax.lax.ppermute(x, axis, ring), own),
        "reduce-scatter": (lambda x: jax.lax.psum_scatter(jnp.tile(x, (2, 1)), axis, tiled=True), 2 * own // devices),
        "all-to-all": (lambda x: jax.lax.all_to_all(jnp.tile(x, (2, 1)), axis, 0, 0, tiled=True), 2 * own),
    }
    for kind, (function, size) in cases.items():
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"), check_vma=False
        )
        text = jax.jit(mapped).lower(jnp.ones((4 * devices, 6))).compile().as_text()
        assert collectives(text) == {kind: {"count": 1, "bytes": size}}, text
    assert traffic({"all-reduce": {"count": 2, "bytes": 5}, "all-gather": {"count": 1, "bytes": 7}}) == 17


def test_the_text_of_other_compilers():
    """Lines of a TPU's and a GPU's programs (jax 0.10.2), shortened."""
    text = """
  %collective-permute-start.2 = (bf16[1,2,256,3]{2,1,3,0:T(2,128)(2,1)S(1)}, bf16[1,2,256,3]{2,1,3,0:T(2,128)S(1)}, \
u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%slice.1), channel_id=253, source_target_pairs={{1,0}}
  %collective-permute-done.2 = bf16[1,2,256,3]{2,1,3,0} collective-permute-done(%collective-permute-start.2)
  ROOT %all-reduce.103 = (bf16[1,2,21]{2,1,0:T(2,128)}, /*index=1*/f32[]{:T(128)}) all-reduce(%a, %b), to_apply=%add
  all-gather-start.1 = ((f32[4], s8[2,2]), (f32[32], s8[16,2])) all-gather-start(%c, %d), dimensions={0}
  all-reduce-start = (f32[10], pred[3]) all-reduce-start(e, f), to_apply=%add
"""
    assert collectives(text) == {
        "all-reduce": {"count": 2, "bytes": 42 * 2 + 4 + 40 + 3},
        "all-gather": {"count": 1, "bytes": 32 * 4 + 32},
        "collective-permute": {"count": 1, "bytes": 2 * 256 * 3 * 2},
    }


def test_what_stays_on_the_chip_is_no_traffic_of_main_memory():
    """A TPU's program, shortened: a kernel is copied to the chip, a slice of the image too; the result goes back."""
    text = """HloModule jit_step

%fused (p: f32[999]) -> f32[999] {
  ROOT %ignored = f32[999]{0} add(%p, %p)
}

ENTRY %main (a: f32[10,8], k: bf16[8,4]) -> f32[10,4] {
  %a = f32[10,8]{1,0:T(8,128)} parameter(0)
  %k = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start = (bf16[8,4]{1,0:T(8,128)(2,1)S(1)}, bf16[8,4]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%k)
  %copy-done = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[10,8]{1,0:T(8,128)}), f32[5,8]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) slice-start(%a), slice={[0:5]}
  %slice-done = f32[5,8]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %y = f32[5,4]{1,0:T(8,128)S(1)} fusion(%slice-done, %copy-done), kind=kOutput, calls=%fused
  %z = f32[5,4]{1,0:T(8,128)} fusion(%a, %y, %a), kind=kOutput, calls=%fused
  ROOT %out = f32[5,4]{1,0:T(8,128)} bitcast(%z)
}
"""
    assert main_memory_bytes(text) == 8 * 4 * 2 + 5 * 8 * 4 + 10 * 8 * 4 + 5 * 4 * 4


def test_cycles_are_those_of_the_operations():
    """Not those of an operation within a fusion."""
    text = """%fused (p: f32[9]) -> f32[9] {
  ROOT %y = f32[9]{0} add(%p, %p), backend_config={"estimated_cycles":"7","iteration_bounds":["1"]}
}

ENTRY %main (a: f32[9]) -> f32[9] {
  %x = f32[9]{0} fusion(%a), kind=kLoop, calls=%fused, backend_config={"flags":[],"estimated_cycles":"1825"}
  ROOT %z = f32[9]{0} copy(%x), backend_config={"estimated_cycles":"175","iteration_bounds":["1"]}
}
"""
    assert estimated_cycles(text) == 2000


@pytest.mark.slow
def test_a_step_that_does_not_fit_says_what_would_help(config, monkeypatch):
    config.batch_size, config.mesh.data, config.data.size, config.num_steps = 8, 1, 128, 100
    messages = (  # of libtpu 0.0.42.1: early, and after it has tried
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (25.39G) exceeds",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 25.39G of 15.75G hbm.",
    )
    compilation.options(config.model.dtype, mesh_of(config))  # asks the compiler once, before it is replaced
    for i, message in enumerate(messages):

        def compile_(self, message=message):
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)
        config.cache_dir = f"{config.cache_dir}{i}"
        found = plan.make_plan(config)
        assert not found["fits"]
        assert found["memory"]["total"] == 25.39 * 2**30
    text = plan.plan_table(found)
    assert "DOES NOT FIT" in text
    assert len(found["advice"]) == 5
    monkeypatch.undo()
    check_advice(config, found["advice"])
    config.batch_size = config.mesh.data = 6  # of 8 devices
    check_advice(config, plan.advice(config, mesh_of(config), 8))


def check_advice(config, lines):
    """Each is a config that is right, and that does not get the same advice again."""
    for line in lines:
        changed = config.copy_and_resolve_references()
        for key, value in re.findall(r"--config\.([\w.]+)=(\w+)", line):
            group, _, name = key.rpartition(".")
            part = changed[group] if group else changed
            part[name] = type(part[name])({"True": 1}.get(value, value))
        config_lib.validate(changed)
        check_mesh(changed, mesh_of(changed))
        assert line not in plan.advice(changed, mesh_of(changed), 8)


def test_the_command_prints_and_writes_the_plan(config, tmp_path):
    args = ("--config=configs/shapes.py", "--mode=plan", "--config.model.width=4", f"--workdir={tmp_path / 'run'}")
    out, _ = command_line.run(*args, f"--config.cache_dir={tmp_path}")
    assert "FITS." in out
    found = json.loads((tmp_path / "run/plan.json").read_text())
    assert found["device"] == "cpu"
    memory = found["memory"]
    assert f"{memory['total'] / 1e9:.3f}" in out
    assert found["cost"]["flops"] > 0
    err = command_line.refused(*args, f"--config.cache_dir={tmp_path}", "--config.mesh.space=9")
    assert "config.mesh: data=1 x space=9 needs 9 devices; there are 8" in err


def test_without_the_compiler_it_says_how_to_get_it(config, monkeypatch):
    config.plan.topology = "v5e:2x4"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config\.plan\.topology=v5e:2x4: needs .*pip install .*plan"):
        plan.make_plan(config)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install .[plan]")
def test_a_tpu_that_is_not_there(config):
    """The plan's all-reduces are those of the CPU's program, in bfloat16; the bounds are arithmetic."""
    config.plan.topology, config.batch_size, config.model.dtype = "v5e:2x2", 4, "bfloat16"
    found = plan.make_plan(config)
    assert found["device"] == "TPU v5 lite"
    assert found["memory"]["device"] == 16 * 2**30
    assert found["mesh"] == {"data": 4, "space": 1}
    assert list(found["collectives"]) == ["all-reduce"]
    limits = found["bounds"]
    np.testing.assert_allclose(limits["arithmetic_seconds"], found["cost"]["flops"] / 197e12)
    assert 0 < found["cost"]["main_memory_bytes"] < found["cost"]["bytes_accessed"]
    assert found["cost"]["estimated_cycles"] > 1000
    np.testing.assert_allclose(limits["images_per_second"], 4 / limits["step_seconds"])
    for wrong in ("v5e:3x3", "v99:2x2", "eight"):
        config.plan.topology = wrong
        with pytest.raises(UserError, match=f"config.plan.topology={wrong}: unknown to libtpu"):
            plan.make_plan(config)
