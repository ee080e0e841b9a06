"""One of several processes that evaluate together, as hosts of a slice do: run by test_inference.py."""

import json
import sys

import jax

from gcn_jax import config as config_lib
from gcn_jax.data.sources import ShapesSource
from gcn_jax.evaluate import Evaluator, as_json
from gcn_jax.mesh import gather, make_mesh, replicated
from gcn_jax.models import init_variables
from gcn_jax.steps import PyTree


def main(address: str, count: int, index: int, config_path: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, index)
    config = config_lib.default()
    with open(config_path) as file:
        config.update(json.load(file))
    assert gather({"sum": 2**53 + index}) == [{"sum": 2**53 + i} for i in range(count)]
    mesh = make_mesh(config)
    assert mesh.size == 2 * count
    variables: PyTree = jax.tree.map(
        lambda value: jax.make_array_from_callback(value.shape, replicated(mesh), value.__getitem__),
        init_variables(config_lib.model_from(config), 0),
    )
    evaluation = Evaluator(ShapesSource("val"), mesh, config)(variables)
    stopped = Evaluator(ShapesSource("val"), mesh, config)(variables, should_stop=lambda: index == 1)
    assert stopped is None, "all stop if one is told to"
    print(json.dumps(as_json(evaluation, config, 0)))


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
