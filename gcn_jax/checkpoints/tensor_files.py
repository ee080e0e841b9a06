"""Reads named arrays from files that may come from anybody: safetensors, NumPy's ``.npz``, or what PyTorch saved.

Nothing is unpickled, except by ``torch.load(weights_only=True)``, which makes only tensors. Names and shapes are known
before any array is read. A caller who checks them first never reads more than it expects, whatever a file claims.
"""

import contextlib
import pathlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

# The most bytes for a safetensors header; ResNet-152's has 0.1 MB. The library allows 100 MB, and needs 1 GB for those.
MAX_HEADER = 8 * 2**20
ENDINGS = {".safetensors": "safetensors", ".npz": "npz", ".pth": "PyTorch", ".pt": "PyTorch", ".bin": "PyTorch"}
TYPES = ("float16", "bfloat16", "float32", "float64")
# What reading a damaged file raises; RuntimeError: for an encrypted archive, or one with an unknown compression.
_DAMAGES = (OSError, EOFError, RuntimeError, SafetensorError, zipfile.BadZipFile, zlib.error)
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class TensorFile:
    """The arrays of an open file.

    Attributes:
      shapes: each array's shape, by its name.
      types: each array's type, by its name; those in `TYPES` can be read.
      read: reads the array of a name.
      metadata: the texts that a safetensors file holds in addition, by their names.
    """

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    read: Callable[[str], np.ndarray]
    metadata: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def open_tensors(path: pathlib.Path) -> Iterator[TensorFile]:
    """Opens a file of arrays, whose kind must be the same by its ending and by its content.

    Raises:
      ValueError: if it is of no known kind, of another than its ending says, or damaged. The message is one line that
        begins with the path.
    """
    openers = {"safetensors": _open_safetensors, "npz": _open_npz, "PyTorch": _open_torch}
    with contextlib.ExitStack() as opened:
        try:
            kind = _kind(path)
            file = opened.enter_context(openers[kind](path))
        except _DAMAGES as error:
            raise _damaged(path, error) from error
        yield file


def read_float32(path: pathlib.Path, file: TensorFile, name: str) -> np.ndarray:
    """Reads an array as float32; raises `ValueError` if it is damaged, not of `TYPES`, or holds NaN or infinity."""
    if file.types[name] not in TYPES:
        raise ValueError(f"{path}: {name} is of type {file.types[name]}; weights must be one of {', '.join(TYPES)}")
    try:
        array = file.read(name)
    except (ValueError, *_DAMAGES) as error:
        raise _damaged(path, error) from error
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {name} holds NaN or infinite values")
    return array


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
    if isinstance(error, OSError) and error.strerror:
        return ValueError(f"{path}: cannot be read ({error.strerror})")
    return ValueError(f"{path}: damaged or cut short ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return plain((str(error).strip() or type(error).__name__).splitlines()[0])


def plain(name: str) -> str:
    """A name from a file, made safe for a line of text: printable and at most 200 characters long."""
    shown = name if name.isprintable() else ascii(name)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def _kind(path: pathlib.Path) -> str:
    """The kind of a file by its ending; raises `ValueError` if its content is of another kind."""
    named = ENDINGS.get(path.suffix.lower())
    if named is None:
        raise ValueError(f"{path}: not a file of weights that is known by its ending; known: {', '.join(ENDINGS)}")
    with path.open("rb") as file:
        head = file.read(9)
    found = "neither whole nor of a known kind"
    if head[8:] == b"{":
        found = "safetensors"
    elif head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        found = "npz" if all(name.endswith(".npy") for name in members) else "PyTorch"
    elif head.startswith(b"\x80"):
        found = "PyTorch"  # PyTorch's old format, or any other pickle
    if found != named:
        raise ValueError(f"{path}: is named as {named}, but its content is {found}")
    return named


@contextlib.contextmanager
def _open_safetensors(path: pathlib.Path) -> Iterator[TensorFile]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    available = path.stat().st_size - 8
    if length > min(available, MAX_HEADER):
        raise ValueError(
            f"{path}: damaged or cut short (its header claims {length:,} bytes; {available:,} are there, and more than "
            f"{MAX_HEADER:,} are never read)"
        )
    with safe_open(path, "numpy") as opened:  # the library checks that the arrays fill the file without overlap
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (it is no dictionary)
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        types = {name: _SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype()) for name, part in slices.items()}
        yield TensorFile(shapes, types, opened.get_tensor, dict(opened.metadata() or {}))


@contextlib.contextmanager
def _open_npz(path: pathlib.Path) -> Iterator[TensorFile]:
    with zipfile.ZipFile(path) as archive:
        shapes, types = {}, {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                try:
                    shapes[name], dtype = _npy_header(file)
                except (ValueError, SyntaxError, TypeError, RecursionError, zlib.error) as error:
                    raise ValueError(f"{path}: {plain(name)} is damaged ({_first_line(error)})") from error
            if dtype.hasobject:
                raise ValueError(f"{path}: {plain(name)} holds pickled objects, which are never read; save arrays")
            # NumPy does not know bfloat16, and writes it as two bytes without a meaning.
            types[name] = "bfloat16" if dtype == np.dtype("V2") else dtype.name

        def read(name: str) -> np.ndarray:
            with archive.open(f"{name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            return array.view(jnp.bfloat16) if types[name] == "bfloat16" else array

        yield TensorFile(shapes, types, read)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type, for format 1.0 only, which NumPy writes for plain arrays: other headers may have gigabytes."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array of format {version[0]}.{version[1]}; known: 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


@contextlib.contextmanager
def _open_torch(path: pathlib.Path) -> Iterator[TensorFile]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: only PyTorch reads this, and it is not installed; where it is, convert the file: python -c "
            f'\'import torch, safetensors.torch as s; s.save_file(torch.load("{path.name}", weights_only=True), '
            f'"{path.with_suffix(".safetensors").name}")\''
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):  # before, weights_only could run code
        raise ValueError(f"{path}: PyTorch {torch.__version__} does not read files safely (CVE-2025-32434); take 2.6")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, depending on the damage
        raise ValueError(f"{path}: torch.load(weights_only=True) refuses it ({_first_line(error)})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a dictionary of tensors")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}

    def read(name: str) -> np.ndarray:
        try:
            return tensors[name].detach().to(torch.float64).numpy()  # NumPy has no bfloat16
        except (TypeError, RuntimeError, NotImplementedError) as error:  # a sparse tensor, or one without values
            raise ValueError(f"{name}: {_first_line(error)}") from error

    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    yield TensorFile(shapes, types, read)
