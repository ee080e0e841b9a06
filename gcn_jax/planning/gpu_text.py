"""Reads from the text of a program compiled for a GPU what it launches there."""

import re

from gcn_jax.planning.hlo_text import COMPUTATION, INSTRUCTION, NO_TRAFFIC

_CALLED = re.compile(r"calls=%([\w.-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_COPIES = {"copy", "slice", "concatenate", "pad", "reverse", "dynamic-slice", "dynamic-update-slice", "gather"}
_FREE = {*NO_TRAFFIC, "broadcast", "reshape", "iota"}
_COSTLY = {  # operation in a fusion -> the fusion's kind, the first that it has
    "convolution": "convolution",
    "dot": "product",
    "scatter": "scatter",
    "sort": "sort",
    "reduce": "reduction",
    "reduce-window": "reduction",
}
# What XLA puts into a command buffer (a CUDA graph), if at least so many such launches follow each other. Convolutions
# of cuDNN and collectives are none of them (jax 0.10.2; `tests/test_gpu_plan.py` compares with XLA's own count).
_CAPTURED = {"fusion", "copy", "sort"}
_LEAST_CAPTURED = 5
# Their order of additions, or of writes, may differ between calls: XLA refuses, or sorts first, what has not unique
# indices if it is asked for repeatable operations (`AssertNonDeterminismIsOkay`, `ScatterDeterminismExpander`).
_NOT_REPEATABLE = re.compile(r"^\s+(?:ROOT )?%?(\S+) = .+? (select-and-scatter|scatter)\((.*)$", re.MULTILINE)


def launches(text: str) -> dict[str, int]:
    """Counts what a step launches, by kind, the most frequent first.

    A fusion's kind is the first of these that it does: convolution, product, scatter, sort, reduction, elementwise (any
    arithmetic), transpose, copy (or concatenation, slice, padding), cast. A loop counts as one launch.

    Args:
      text: of the compiled program, as `jax.stages.Compiled.as_text` gives it.
    """
    computations = dict(COMPUTATION.findall(text))
    found: dict[str, int] = {}
    for operation, line in _operations_of(text[text.index("\nENTRY") :]):
        if operation.endswith("-done"):
            continue
        kind = _kind(operation, line, computations)
        found[kind] = found.get(kind, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def command_buffers(text: str) -> dict[str, int]:
    """How many of the launches XLA joins to command buffers, and to how many: {"count": ..., "launches": ...}."""
    runs = [0]  # that something else, or the end of a collective, ends
    for operation, line in _operations_of(text[text.index("\nENTRY") :]):
        if operation in _CAPTURED or (operation == "custom-call" and "__cublas" in line):
            runs[-1] += 1
        else:
            runs.append(0)
    joined = [run for run in runs if run >= _LEAST_CAPTURED]
    return {"count": len(joined), "launches": sum(joined)}


def not_repeatable(text: str) -> list[str]:
    """The names of the operations, in all computations, that may give other bits at each call."""
    return [
        name
        for name, operation, rest in _NOT_REPEATABLE.findall(text)
        if operation == "select-and-scatter" or "unique_indices=true" not in rest
    ]


def _operations_of(part: str) -> list[tuple[str, str]]:
    """The operation and the line of all that a computation does, in its order."""
    found = [(match[3], part[match.start() : part.index("\n", match.end())]) for match in INSTRUCTION.finditer(part)]
    return [(operation, line) for operation, line in found if operation not in NO_TRAFFIC]


def _kind(operation: str, line: str, computations: dict[str, str]) -> str:
    """The kind of a launch."""
    if operation == "custom-call":
        (target,) = _TARGET.findall(line)
        kinds = {"cudnn$conv": "convolution", "cublas": "product", "cudnn": "cuDNN", "TopK": "sort", "cub": "sort"}
        return next((kind for part, kind in kinds.items() if part in target), target)
    called = _CALLED.search(line)
    if operation != "fusion" or called is None:
        return operation.removesuffix("-start")
    parts = _operations(called[1], computations) - _FREE
    for operation in _COSTLY:
        if operation in parts:
            return _COSTLY[operation]
    if parts - {"convert", "transpose"} - _COPIES:
        return "elementwise"
    return "transpose" if "transpose" in parts else "copy" if parts & _COPIES or not parts else "cast"


def _operations(name: str, computations: dict[str, str]) -> set[str]:
    """The operations of a computation and of those that it calls as fusions."""
    body = computations.get(name, "")
    found = {match[3] for match in INSTRUCTION.finditer(body)}
    return found.union(*(_operations(inner, computations) for inner in _CALLED.findall(body)))
