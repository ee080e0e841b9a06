"""Finds official archives in the user's folder, or downloads them."""

import hashlib
import pathlib
import urllib.error
import urllib.request
from dataclasses import dataclass

from gcn_jax.console import bar
from gcn_jax.data.builders.archives import Files, Folder, open_archive
from gcn_jax.errors import UserError


@dataclass(frozen=True)
class Archive:
    """An official archive.

    Attributes:
      name: of the file.
      url: where to get it. Without a checksum it is a page that asks for a login, from which only the user can get it.
      inner: the folder in the archive that is read, "" for all.
      checksum: "sha256:..." or "md5:...", as published; empty: we do not download it.
    """

    name: str
    url: str
    inner: str = ""
    checksum: str = ""


def find(archive: Archive, roots: tuple[str, ...], marker: str, data_dir: str, downloads: pathlib.Path) -> Files:
    """Finds official files: unpacked or as an archive in data_dir, or downloaded.

    Args:
      archive: that holds the files.
      roots: folders below data_dir that the archive may lie in or have been unpacked into, "" for data_dir itself.
      marker: a file or folder of the archive; where it exists below a root, the archive was unpacked there.
      data_dir: the user's folder; empty: the archive is downloaded unless that has been done.
      downloads: the folder for downloaded archives.

    Returns:
      The files, which are read when they are asked for.

    Raises:
      UserError: naming the archive, where to get it and where to put it.
    """
    scratch = downloads.parent / "scratch"
    if not data_dir:
        if not archive.checksum:
            raise UserError(
                f"config.data_dir is empty, and {archive.name} cannot be downloaded without you: fetch it from "
                f"{archive.url} and set config.data_dir to its folder"
            )
        return open_archive(download(archive.url, archive.checksum, downloads), archive.inner, scratch)
    folder = pathlib.Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"config.data_dir={data_dir}: no such folder")
    for root in roots:
        if (folder / root / marker).exists():
            return Folder(folder / root)
    for root in ("", *roots):
        if (folder / root / archive.name).is_file():
            return open_archive(folder / root / archive.name, archive.inner, scratch)
    unpacked = pathlib.PurePosixPath(roots[0], marker)
    or_else = ", or leave config.data_dir empty to have it downloaded" if archive.checksum else ""
    raise UserError(
        f"config.data_dir={data_dir}: holds neither {unpacked} nor {archive.name}; fetch it from {archive.url} into "
        f"that folder{or_else}"
    )


def download(url: str, checksum: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads an archive into a folder, with a progress bar, unless it is there.

    An interrupted download is continued. The file gets its final name only after its checksum has been verified.

    Args:
      url: its last part is the file's name.
      checksum: "sha256:..." or "md5:...".
      folder: made if it does not exist.

    Returns:
      The archive's path.

    Raises:
      UserError: if the server cannot be reached or sends something else.
    """
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    advice = f"fetch {url} yourself and set config.data_dir to its folder"
    part = path.with_suffix(path.suffix + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
    except OSError as error:
        raise UserError(f"download of {url} failed ({error}); run again to go on with it, or {advice}") from error
    algorithm, _, expected = checksum.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        part.unlink()
        raise UserError(f"{url}: what came has the {algorithm} checksum {found}, not {expected}; {advice}")
    return part.replace(path)


def _fetch(url: str, part: pathlib.Path) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            error.close()
            return
        raise
    with response:
        if response.status != 206:  # the server starts from the beginning
            have = 0
        left = response.headers.get("Content-Length")
        total = have + int(left) if left else None
        progress = bar(f"downloading {part.stem}", total, "B", initial=have, unit_scale=True)
        with part.open("ab" if have else "wb") as file, progress:
            while block := response.read(2**20):
                file.write(block)
                progress.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")
