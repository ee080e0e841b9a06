"""An ONNX graph that is built node by node."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 17  # of ONNX 1.12: what runtimes of 2022 and later know
_IR_VERSION = 8  # of the same release
_MOST_BYTES = 2**31 - 2**20  # of one file of protocol buffers


class Graph:
    """Nodes and constants; a value is known by its name, which each method returns."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: Any) -> str:
        """Adds an array."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def integers(self, *values: int) -> str:
        """Adds an int64 array [n]."""
        return self.constant(np.array(values, np.int64))

    def add(self, operation: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Adds a node of one output; an input "" is left out."""
        name = name or f"{operation}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def to_bytes(
        self,
        image: onnx.ValueInfoProto,
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: Mapping[str, str],
        version: str,
    ) -> bytes:
        """The file; raises `ValueError` if it would be larger than a file of ONNX can be."""
        if sum(len(array.raw_data) for array in self._constants) > _MOST_BYTES:
            raise ValueError("its weights exceed the 2 GB that one file of ONNX holds")
        graph = helper.make_graph(self._nodes, "gcn_jax", [image], list(outputs), self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="gcn_jax",
            producer_version=version,
        )
        helper.set_model_props(model, dict(metadata))
        return model.SerializeToString()
