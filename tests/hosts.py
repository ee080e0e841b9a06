"""One of several processes that evaluate together, as hosts of a slice do: run by test_inference.py."""

import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh

from gcn_jax import config as config_lib
from gcn_jax.data.sources import ShapesSource
from gcn_jax.models import init_variables
from gcn_jax.models.preprocessing import PyTree
from gcn_jax.runtime.mesh import gather, put_share, read_share, replicated
from tests.helpers import evaluator, mesh_of, result_of

LAYOUTS = (  # [data, space] of six devices, two for each of three processes, and the share that each process reads
    ([[0], [1], [2], [3], [4], [5]], [(0, 3), (1, 3), (2, 3)]),
    ([[4], [2], [0], [1], [5], [3]], [(2, 3), (1, 3), (0, 3)]),  # as a TPU's may be
    ([[0, 1], [2, 3], [4, 5]], [(0, 3), (1, 3), (2, 3)]),
    ([[0, 2, 4], [1, 3, 5]], [(0, 1), (0, 1), (0, 1)]),
    ([[0, 1, 2, 3, 4, 5]], [(0, 1), (0, 1), (0, 1)]),
)


def check_put(index: int) -> None:
    """Each process gives the rows of the places along "data" that it has devices at; each device gets its part."""
    whole = np.random.default_rng(0).integers(0, 256, (12, 6, 4, 3), np.uint8)
    for layout, shares in LAYOUTS:
        mesh = Mesh(np.array(jax.devices())[np.array(layout)], ("data", "space"))
        assert read_share(mesh) == shares[index], layout
        rows = np.split(whole, len(layout))
        own = [part for part, places in zip(rows, layout, strict=True) if {2 * index, 2 * index + 1} & {*places}]
        array = put_share(np.concatenate(own), mesh)
        assert array.shape == whole.shape
        for part in array.addressable_shards:
            np.testing.assert_array_equal(part.data, whole[part.index], str(layout))
            place, column = np.argwhere(mesh.devices == part.device)[0]
            expected = np.split(rows[place], len(layout[0]), axis=1)[column]
            np.testing.assert_array_equal(part.data, expected, str(layout))


def main(address: str, count: int, index: int, config_path: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, index)
    config = config_lib.default()
    with open(config_path) as file:
        config.update(json.load(file))
    assert gather({"sum": 2**53 + index}) == [{"sum": 2**53 + i} for i in range(count)]
    check_put(index)
    mesh = mesh_of(config)
    assert mesh.size == 2 * count
    variables: PyTree = jax.tree.map(
        lambda value: jax.make_array_from_callback(value.shape, replicated(mesh), value.__getitem__),
        init_variables(config_lib.model_from(config), 0),
    )
    evaluation = evaluator(ShapesSource("val"), mesh, config)(variables)
    stopped = evaluator(ShapesSource("val"), mesh, config)(variables, should_stop=lambda: index == 1)
    assert stopped is None, "all stop if one is told to"
    print(json.dumps(result_of(evaluation, config, 0)))


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
