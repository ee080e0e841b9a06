"""Reads files by name, from a folder or directly out of an archive, through one interface."""

import contextlib
import gzip
import os
import pathlib
import tarfile
import tempfile
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import IO

from gcn_jax.console import bar
from gcn_jax.errors import UserError

# What operating systems, file servers and programs put beside files of ours, besides names that begin with a dot.
_JUNK = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "thumbs.db", "desktop.ini")
)


def is_junk(path: str | pathlib.PurePath) -> bool:
    """Whether a file, named relative to a folder that somebody chose, is hidden or junk, or in a folder that is."""
    parts = (part.lower() for part in pathlib.PurePath(path).parts if part != "..")
    return any(part.startswith(".") or part in _JUNK for part in parts)


class Files(ABC):
    """Read-only files, each named by its path relative to a root."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Reads a file; raises `UserError` naming it if it is missing or damaged."""

    @abstractmethod
    def names(self, below: str) -> list[str]:
        """The names of all files below a folder, sorted, without junk."""

    @abstractmethod
    def describe(self, name: str) -> str:
        """The file's full name, for messages."""

    @abstractmethod
    def stamps(self, names: Callable[[], Iterable[str]]) -> Iterator[str]:
        """Yields texts that change when the files do (size and time): one per name, or one for a whole archive."""


def _leaves(name: str) -> bool:
    """Whether a relative name points outside the folder that it starts from."""
    return name.startswith("/") or ".." in name.split("/")


class Folder(Files):
    """The files below a folder on disk."""

    def __init__(self, root: pathlib.Path):
        self._root = root

    def read(self, name: str) -> bytes:
        if _leaves(name):
            raise UserError(f"{self.describe(name)}: refused: it lies outside {self._root}")
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.describe(name)}: cannot be read ({error.strerror})") from error

    def names(self, below: str) -> list[str]:
        start = self._root / below if below else self._root
        found = []
        for folder, folders, files in os.walk(start, followlinks=True):
            folders[:] = [name for name in folders if not is_junk(name)]
            found += [pathlib.Path(folder, name) for name in files if not is_junk(name)]
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    def describe(self, name: str) -> str:
        return str(self._root / name)

    def stamps(self, names: Callable[[], Iterable[str]]) -> Iterator[str]:
        return (f"{name}-{_stamp(self._root / name)}" for name in names())


class _Archived(Files):
    """What all kinds of archive have in common. No file is written: each is read from its place in the archive."""

    def __init__(self, path: pathlib.Path, inner: str):
        self._path, self._prefix = path, f"{inner}/" if inner else ""
        self._lock = threading.Lock()

    @cached_property
    def _members(self) -> dict[str, tuple[int, int]]:
        """For each name what `_read_member` needs; listed when it is first used."""
        try:
            members = dict(self._list())
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
            raise UserError(f"{self._path}: damaged or truncated archive ({error}); fetch it again") from error
        for name in members:
            if _leaves(name):
                raise UserError(f"{self._path}: refused: its file {name!r} would lie outside the archive's folder")
        if not any(name.startswith(self._prefix) for name in members):
            raise UserError(f"{self._path}: holds no {self._prefix}; is it the official archive?")
        return members

    @abstractmethod
    def _list(self) -> Iterator[tuple[str, tuple[int, int]]]: ...

    @abstractmethod
    def _read_member(self, name: str, place: tuple[int, int]) -> bytes: ...

    def read(self, name: str) -> bytes:
        with self._lock:
            if self._prefix + name not in self._members:
                raise UserError(f"{self.describe(name)}: missing from the archive")
            try:
                return self._read_member(self._prefix + name, self._members[self._prefix + name])
            except (zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
                raise UserError(f"{self.describe(name)}: damaged in the archive ({error}); fetch it again") from error

    def names(self, below: str) -> list[str]:
        start = self._prefix + (f"{below}/" if below else "")
        found = (name for name in self._members if name.startswith(start) and not is_junk(name.removeprefix(start)))
        return sorted(name.removeprefix(self._prefix) for name in found)

    def describe(self, name: str) -> str:
        return f"{self._path}:{self._prefix}{name}"

    def stamps(self, names: Callable[[], Iterable[str]]) -> Iterator[str]:
        yield f"{self._path.name}-{_stamp(self._path)}"  # enough; listing the names would take long


class Tar(_Archived):
    """The files of a tar archive.

    A compressed one (.tgz) is decompressed once, into an unnamed temporary file that vanishes when the process ends.
    """

    def __init__(self, path: pathlib.Path, inner: str, scratch: pathlib.Path):
        super().__init__(path, inner)
        self._scratch = scratch

    @cached_property
    def _file(self) -> IO[bytes]:
        if self._path.suffix != ".tgz":
            return self._path.open("rb")
        self._scratch.mkdir(parents=True, exist_ok=True)
        size = self._path.stat().st_size
        with (
            contextlib.ExitStack() as on_error,
            self._path.open("rb") as packed,
            gzip.open(packed) as unpacked,
            bar(f"decompressing {self._path.name}", size, "B", unit_scale=True) as progress,
        ):
            file = on_error.enter_context(tempfile.TemporaryFile(dir=self._scratch))
            while block := unpacked.read(2**22):
                file.write(block)
                progress.update(packed.tell() - progress.n)
            on_error.pop_all()
        return file

    def _list(self) -> Iterator[tuple[str, tuple[int, int]]]:
        self._file.seek(0)
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield member.name.removeprefix("./"), (member.offset_data, member.size)

    def _read_member(self, name: str, place: tuple[int, int]) -> bytes:
        self._file.seek(place[0])
        data = self._file.read(place[1])
        if len(data) != place[1]:
            raise EOFError("the archive ends within it")
        return data

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()


class Zip(_Archived):
    """The files of a zip archive; each is checked against its CRC when it is read."""

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self._path)

    def _list(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for info in self._zip.infolist():
            if not info.is_dir():
                yield info.filename, (info.header_offset, info.file_size)

    def _read_member(self, name: str, place: tuple[int, int]) -> bytes:
        return self._zip.read(name)

    def __del__(self) -> None:
        if "_zip" in self.__dict__:
            self._zip.close()


def _stamp(path: pathlib.Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def open_archive(path: pathlib.Path, inner: str, scratch: pathlib.Path) -> Files:
    """Opens a zip, tar or tgz archive.

    Args:
      path: of the archive.
      inner: the folder in it whose files are read, "" for all.
      scratch: the folder that a tgz is decompressed into when it is first read.
    """
    return Zip(path, inner) if path.suffix == ".zip" else Tar(path, inner, scratch)
