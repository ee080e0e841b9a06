"""Digests of a checkpoint's files, by which damage is told from what is whole but does not fit.

Orbax renames a finished save into place, so that a killed process leaves no half of one. Later damage (by a disk, by a
copy that was cut off) it may not notice: an array's bytes can change and still be decompressed to numbers.
"""

import hashlib
import json
import pathlib

_NAME = "digests.json"
# What a checkpoint without digests, from an earlier version, holds at least.
_ESSENTIAL = ("state/_METADATA", "state/manifest.ocdbt", "data/metadata")


def write(folder: pathlib.Path, but: tuple[str, ...]) -> None:
    """Writes the SHA-256 of every file below a folder to a file in it, but for the named ones, which still change."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    digests = {name: _digest(folder / name) for name in names if name not in but}
    (folder / _NAME).write_text(json.dumps(digests, indent=0))


def damage(folder: pathlib.Path) -> str:
    """What is wrong with the files of a folder, "" if nothing is."""
    digests: dict[str, str]
    try:
        digests = dict(json.loads((folder / _NAME).read_text()))
    except FileNotFoundError:
        digests = dict.fromkeys(_ESSENTIAL, "")
    except (OSError, ValueError, TypeError):
        return f"{_NAME} is damaged"
    wrong = []
    for name, digest in digests.items():
        try:
            if _digest(folder / name) != digest and digest:
                wrong.append(f"{name} has changed")
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
    return "; ".join(wrong[:1] + ([f"{len(wrong)} files in all"] if len(wrong) > 1 else []))


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
