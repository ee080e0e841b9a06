"""An ONNX graph that is built node by node."""

import hashlib
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
        self._constants: dict[tuple, onnx.TensorProto] = {}

    def constant(self, value: Any) -> str:
        """Adds an array, or finds it among those that were added."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))  # a scalar stays one
        key = array.dtype.str, array.shape, hashlib.sha256(array.data).digest()
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return self._constants[key].name

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
        if sum(len(array.raw_data) for array in self._constants.values()) > _MOST_BYTES:
            raise ValueError("its weights exceed the 2 GB that one file of ONNX holds")
        graph = helper.make_graph(self._nodes, "gcn_jax", [image], list(outputs), list(self._constants.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="gcn_jax",
            producer_version=version,
        )
        helper.set_model_props(model, dict(metadata))
        return model.SerializeToString()
