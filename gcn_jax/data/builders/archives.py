"""One way to read files by name, from a folder or straight out of a tar archive; and the download of an archive."""

import hashlib
import pathlib
import tarfile
import urllib.request
from typing import Protocol

from tqdm import tqdm

from gcn_jax.errors import UserError


class Files(Protocol):
    """Read-only files addressed by their path below a root."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises `UserError` naming it when it is missing."""
        ...

    def describe(self, name: str) -> str:
        """The file's full name, for messages."""
        ...

    def stamp(self, name: str) -> str:
        """Changes when the file's content does (size and time); empty when there is no such file."""
        ...


class Folder:
    """Files below a folder."""

    def __init__(self, root: pathlib.Path):
        self._root = root

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.describe(name)}: cannot be read ({error.strerror})") from error

    def describe(self, name: str) -> str:
        return str(self._root / name)

    def stamp(self, name: str) -> str:
        try:
            stat = (self._root / name).stat()
        except OSError:
            return ""
        return f"{stat.st_size}-{stat.st_mtime_ns}"


class Tar:
    """Files below a folder of an uncompressed tar archive, read in place: nothing is unpacked."""

    def __init__(self, path: pathlib.Path, root: str):
        self._path, self._root = path, root
        try:
            with tarfile.open(path, "r:") as tar:
                members = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar if m.isfile()}
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{path}: damaged or truncated archive ({error}); fetch it again") from error
        self._members = members
        if not any(name.startswith(root) for name in members):
            raise UserError(f"{path}: holds no {root}; is it the official archive?")

    def read(self, name: str) -> bytes:
        if f"{self._root}/{name}" not in self._members:
            raise UserError(f"{self.describe(name)}: missing from the archive")
        offset, size = self._members[f"{self._root}/{name}"]
        with self._path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise UserError(f"{self._path}: truncated archive; fetch it again")
        return data

    def describe(self, name: str) -> str:
        return f"{self._path}:{self._root}/{name}"

    def stamp(self, name: str) -> str:
        stat = self._path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}" if f"{self._root}/{name}" in self._members else ""


def download(url: str, sha256: str, size: int, folder: pathlib.Path) -> pathlib.Path:
    """Downloads an archive into a folder, with a progress bar, unless it is there already.

    The file gets its name only when its checksum has been found right.

    Raises:
      UserError: if the server cannot be reached or sends something else.
    """
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    digest = hashlib.sha256()
    advice = f"fetch {url} yourself and set config.data_dir to its folder"
    try:
        with (
            urllib.request.urlopen(url, timeout=60) as response,
            part.open("wb") as file,
            tqdm(desc=f"downloading {path.name}", total=size, unit="B", unit_scale=True) as bar,
        ):
            while block := response.read(2**20):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
    except OSError as error:
        raise UserError(f"download failed ({error}); {advice}") from error
    if digest.hexdigest() != sha256:
        part.unlink()
        raise UserError(f"{url}: what came has the checksum {digest.hexdigest()}, not {sha256}; {advice}")
    return part.replace(path)
