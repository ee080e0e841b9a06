"""Reads from the text of a compiled program how many bytes go between devices, and to and from their main memory."""

import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_OPERATION = re.compile(rf"^\s*(?:ROOT )?%?\S+ = (.+?) ({'|'.join(KINDS)})(-start)?\(", re.MULTILINE)
_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.+?) ([a-z-]+)\((.*?)\)(?:,|$)", re.MULTILINE)
COMPUTATION = re.compile(r"^%(\S+) \(.*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FUSION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = .+? fusion\(.*?calls=%([\w.-]+)", re.MULTILINE)
_SLICE = {"parameter", "slice"}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ON_CHIP = "S(1)"  # in an array's layout, this stands for a TPU's fast memory
NO_TRAFFIC = ("parameter", "constant", "bitcast", "tuple", "get-tuple-element")


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Counts the collective operations of a program.

    Args:
      text: of the compiled program, as `jax.stages.Compiled.as_text` gives it. Collectives must not be inside loops.

    Returns:
      For each kind that occurs ``{"count": ..., "bytes": ...}``, where bytes are those of the results on one device.
    """
    found: dict[str, dict[str, int]] = {}
    for shape, kind, start in _OPERATION.findall(text):
        if start and kind in ("all-gather", "collective-permute"):  # operands, results, a permute's flags
            shape = _parts(shape)[1]
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += sum(_num_bytes(dtype, dims) for dtype, dims, _ in _ARRAY.findall(shape))
    return {kind: found[kind] for kind in KINDS if kind in found}


def main_memory_bytes(text: str) -> int:
    """Bytes that a program reads from and writes to main memory: for a TPU's or a GPU's text.

    The compiler's own "bytes accessed" also include what stays on the chip, and count a copy to the chip and its use
    there twice. Here each operation counts its operands and results in main memory, without the padding of their tiles.
    A GPU's cache may serve a part of them, which the text does not say.
    """
    entry, slices = text[text.index("\nENTRY") :], _slices(text)
    shapes: dict[str, str] = {}
    total = 0
    for name, shape, operation, arguments in INSTRUCTION.findall(entry):
        shapes[name] = shape
        operands = [shapes.get(operand, "") for operand in dict.fromkeys(re.findall(r"%?([\w.-]+)", arguments))]
        if operation in NO_TRAFFIC or operation.endswith("-done"):
            continue
        if operation in ("slice", "slice-start") or name in slices:  # these read only what they copy
            result = _parts(shape)[1] if operation == "slice-start" else shape
            copied = sum(_num_bytes(dtype, dims) for dtype, dims, _ in _ARRAY.findall(result))
            total += copied * sum(_in_main_memory(part) > 0 for part in (operands[0], result))
        elif operation.endswith("-start") and operation != "all-reduce-start":  # the shape includes the operands
            total += _in_main_memory(operands[0]) + _in_main_memory(_parts(shape)[operation != "copy-start"])
        else:
            total += _in_main_memory(shape) + sum(map(_in_main_memory, operands))
    return total


def _slices(text: str) -> set[str]:
    """The names of the fusions that only copy a part of their operand."""
    names = {
        name for name, body in COMPUTATION.findall(text) if {op for *_, op, _ in INSTRUCTION.findall(body)} == _SLICE
    }
    return {name for name, called in _FUSION.findall(text) if called in names}


def estimated_cycles(text: str) -> int:
    """The sum of the cycles that the TPU's compiler estimates for each operation; 0 if it estimates nothing.

    Copies that run beside the computation, collectives and pooling have no estimate and count as 0.
    """
    return sum(map(int, _CYCLES.findall(text[text.index("\nENTRY") :])))


def _in_main_memory(shape: str) -> int:
    return sum(_num_bytes(dtype, dims) for dtype, dims, layout in _ARRAY.findall(shape) if _ON_CHIP not in layout)


def traffic(found: dict[str, dict[str, int]]) -> int:
    """The most bytes that a device sends.

    An all-reduce counts twice its bytes, as in a ring of many devices; all other collectives count once.

    Args:
      found: from `collectives`.
    """
    return sum((2 if kind == "all-reduce" else 1) * entry["bytes"] for kind, entry in found.items())


def _parts(shape: str) -> list[str]:
    """The parts of a tuple's shape: "(a, (b, c))" -> ["a", "(b, c)"]."""
    parts, depth, start = [], 0, 1
    for i, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == (1 if letter == "," else 0):
            parts.append(shape[start:i])
            start = i + 1
    return parts


def _num_bytes(dtype: str, dims: str) -> int:
    bits = re.search(r"\d+", dtype)
    size = 1 if bits is None else int(bits[0]) / 8  # "pred" is a byte
    return math.ceil(size * math.prod(int(dim) for dim in dims.split(",") if dim))
