"""The programs that a GPU would get, compiled for GPUs that are not there; where the extra `plan-cuda` is installed.

`make gpu-compile` installs it into an environment of its own and runs these.
"""

import functools
import glob
import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gcn_jax import crf
from gcn_jax.config import settings
from gcn_jax.inference.labeller import Labeller
from gcn_jax.models import DECODERS, variable_shapes
from gcn_jax.models.heads import HEADS
from gcn_jax.planning import gpu_text, hlo_text
from gcn_jax.planning.compiled_step import abstract_inputs, compiled_without_device, step_flops
from gcn_jax.planning.topologies import devices_of
from gcn_jax.runtime.compilation import platform_jit
from gcn_jax.runtime.mesh import batch_sharding, make_mesh, replicated
from gcn_jax.training.step import jit_train_step
from tests import command_line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None,
        reason="needs the GPUs' compiler: make gpu-compile, or pip install .[plan-cuda]",
    ),
]


def lowered_step(config, data=1, space=1, card="h100"):
    """A training step on `data` times `space` GPUs, one image for each index along "data"."""
    config.batch_size = data
    mesh = make_mesh(data, space, devices_of(f"{card}:{data * space}"))
    recipe = settings.recipe(config)
    return jit_train_step(recipe, mesh).lower(*abstract_inputs(recipe, mesh, data, config.data.size))


def check_convolutions(text, dtype):
    """There are some, and all have the network's dtype."""
    dtypes = re.findall(r' = \((\w+)\[.*custom_call_target="__cudnn\$conv', text)
    assert len(dtypes) == gpu_text.launches(text)["convolution"] > 0
    assert set(dtypes) == {{"float32": "f32", "bfloat16": "bf16"}[dtype]}


@pytest.mark.parametrize(
    ("dtype", "data", "space", "card"),
    [
        ("float32", 1, 1, "rtx4090"),
        ("bfloat16", 1, 1, "t4"),
        ("bfloat16", 4, 1, "a100"),
        ("float32", 8, 1, "h100"),
        ("bfloat16", 1, 4, "h100"),
        ("float32", 2, 4, "h100"),
    ],
)
def test_a_step_compiles(config, dtype, data, space, card):
    config.model.dtype, config.data.size = dtype, 64 if space == 1 else 32 * space  # one row of res-5
    compiled = compiled_without_device(lowered_step(config, data, space, card))
    text = compiled.as_text()
    if card != "t4":  # which computes in float32
        check_convolutions(text, dtype)
    assert gpu_text.not_repeatable(text) == []
    assert compiled.memory_analysis().temp_size_in_bytes > 0
    kinds = set(hlo_text.collectives(text))
    assert kinds >= ({"all-reduce", "collective-permute"} if space > 1 else {"all-reduce"} if data > 1 else set())
    assert space > 1 or kinds <= {"all-reduce"}, "no activation is gathered"


@pytest.mark.parametrize("decoder", ["gcn", "fcn8s", "aspp", "refinenet", "deeplabv3plus"])
def test_matrix_units_get_channels_by_eights(config, decoder):
    """Of all that cuDNN convolves but the image's three."""
    config.model.update(decoder=decoder, width=8, dtype="bfloat16")
    config.data.size = 128  # XLA turns the gradients of a stride over 2 x 2 pixels into other convolutions
    text = compiled_without_device(lowered_step(config)).as_text()
    results = re.findall(r' = \(bf16\[([0-9,]+)\].*custom_call_target="__cudnn\$conv', text)
    channels = {int(dims.split(",")[-1]) for dims in results if not dims.endswith("7,7,3")}
    assert len(channels) > 2
    assert all(count % 8 == 0 for count in channels)


def test_parameters_are_few_arrays_updated_in_place(config):
    """Small ones are joined, each else with launches of its own; no kernel is copied after its update."""
    config.model.update(backbone="resnet26", dtype="bfloat16", width=8)
    config.data.size = 128
    mesh = make_mesh(1, 1, devices_of("h100"))
    recipe = settings.recipe(config)
    state, _ = abstract_inputs(recipe, mesh, 1, config.data.size)
    text = compiled_without_device(lowered_step(config)).as_text()
    (header,) = (line for line in text.splitlines() if "input_output_alias" in line)
    assert len(re.findall("may-alias|must-alias", header)) == len(jax.tree.leaves(state)) < 60
    assert re.findall(r"= f32\[3,3,\d+,\d+\]\S+ copy\(", text) == []


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    "changes", [{"decoder": d} for d in DECODERS] + [{"head": h, "head_width": 8, "kernel_size": 5} for h in HEADS[1:]]
)
def test_every_decoder_and_head_repeats_a_step(config, changes, devices):
    """Not by a scatter that XLA sorts for it, which is slow."""
    config.model.update(changes)
    text = compiled_without_device(lowered_step(config, devices)).as_text()
    assert gpu_text.not_repeatable(text) == []
    assert not {"while", "scatter", "sort"} & set(gpu_text.launches(text))


def test_what_is_not_repeatable_is_found_and_made_so_with_a_sort():
    """So that the tests above can fail: the gradient of XLA's own pooling."""
    mesh = make_mesh(1, 1, devices_of("h100"))

    def pooled(x):
        return jnp.square(jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")).sum()

    x = jax.ShapeDtypeStruct((1, 16, 16, 4), jnp.float32, sharding=batch_sharding(mesh))
    texts = [
        platform_jit(jax.grad(pooled), "float32", mesh, repeatable).lower(x).compile().as_text()
        for repeatable in (False, True)
    ]
    assert [bool(gpu_text.not_repeatable(text)) for text in texts] == [True, False]
    assert ["sort" in gpu_text.launches(text) for text in texts] == [False, True]


@pytest.mark.parametrize(("data", "space"), [(1, 1), (8, 1)])
def test_launches_and_command_buffers_are_those_of_xlas_own_list(config, tmp_path, data, space):
    compiled = lowered_step(config, data, space).compile({"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_text": True})
    text = compiled.as_text()
    (path,) = glob.glob(f"{tmp_path}/*jit_train_step*thunk_sequence_after_thunk_passes.txt")
    with open(path, encoding="utf-8") as file:
        lines = [match for line in file if (match := re.match(r"( *)\d+: (k\w+)", line))]
    alone, joined, is_buffer = [], 0, False  # what is indented is in a command buffer, or is what an AsyncStart starts
    for indented, kind in (match.groups() for match in lines):
        if not indented:
            alone.append(kind)
            is_buffer = kind == "kCommandBuffer"
        joined += bool(indented) and is_buffer
    assert gpu_text.command_buffers(text) == {"count": alone.count("kCommandBuffer"), "launches": joined}
    others = [kind for kind in alone if kind not in ("kCommandBuffer", "kAsyncDone")]
    assert sum(gpu_text.launches(text).values()) == joined + len(others)


def on_one_gpu(tree, mesh, sharding):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding(mesh)), tree)


@pytest.mark.parametrize("devices", [1, 4])
def test_an_evaluation_compiles(config, devices):
    config.eval.update(scales=(0.5, 1.0), flip=True, batch_size=devices)
    config.model.dtype = "bfloat16"
    mesh = make_mesh(devices, 1, devices_of(f"h100:{devices}"))
    recipe = settings.recipe(config)
    labeller = Labeller(recipe.model, recipe.preprocessing, settings.protocol(config), mesh)
    variables = on_one_gpu(variable_shapes(recipe.model), mesh, replicated)
    images = on_one_gpu(jax.ShapeDtypeStruct((devices, 64, 64, 3), jnp.uint8), mesh, batch_sharding)
    sizes = on_one_gpu(jax.ShapeDtypeStruct((devices, 2), jnp.int32), mesh, batch_sharding)
    lowered = labeller._maps.lower(variables, images, ("labels", "probabilities"), None, sizes)
    text = compiled_without_device(lowered).as_text()
    check_convolutions(text, "bfloat16")
    assert not hlo_text.collectives(text), "an image stays on its device"


def test_the_crf_compiles():
    mesh = make_mesh(1, 1, devices_of("h100"))
    sharding = NamedSharding(mesh, PartitionSpec())
    image = jax.ShapeDtypeStruct((32, 40, 3), jnp.float32, sharding=sharding)
    logits = jax.ShapeDtypeStruct((32, 40, 3), jnp.float32, sharding=sharding)
    refine = functools.partial(crf.mean_field, params=crf.Params(iterations=2))
    text = platform_jit(refine, jnp.float32, mesh).lower(image, logits).compile().as_text()
    assert gpu_text.launches(text)


def test_the_command_plans_for_gpus(tmp_path):
    args = ("--config=configs/shapes.py", "--mode=plan", "--config.model.width=4", "--config.model.dtype=bfloat16")
    out, _ = command_line.run(
        *args, "--config.plan.topology=t4:1x1", f"--workdir={tmp_path / 'run'}", f"--config.cache_dir={tmp_path}"
    )
    assert "FITS." in out
    assert "--config.model.dtype=float32" in out
    assert "Nothing is measured" in out
    found = json.loads((tmp_path / "run/plan.json").read_text())
    assert found["device"] == "Tesla T4"
    assert found["memory"]["device"] == 0.75 * 16106127360
    assert f"{sum(found['launches'].values())}" in out
    assert found["estimates"]["launch_seconds"] > found["bounds"]["step_seconds"] > 0


def test_operations_are_those_of_the_step_before_compiling(config):
    """Whatever the number of devices; the same as the CPU's own count of the same form, and in proportion to images."""
    recipe = settings.recipe(config)
    counts = {}
    for devices in (1, 4):
        mesh = make_mesh(devices, 1, devices_of(f"h100:{devices}"))
        counts[devices] = step_flops(recipe, *abstract_inputs(recipe, mesh, devices, config.data.size), "gpu")
    assert 3.5 * counts[1] < counts[4] < 4 * counts[1]
