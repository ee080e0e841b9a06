"""Digests of a checkpoint's files, which tell a damaged checkpoint from a whole one that does not fit the model.

Orbax renames a finished save into place, so that a killed process leaves no half-written checkpoint. It may not notice
later damage (by a disk, or by a copy that was cut off): changed bytes can still be decompressed to numbers.
"""

import hashlib
import json
import pathlib

_NAME = "digests.json"
# Files that every checkpoint holds; only these are looked for in one without digests, from an earlier version.
_ESSENTIAL = ("state/_METADATA", "state/manifest.ocdbt", "data/metadata")


def write(folder: pathlib.Path, but: tuple[str, ...]) -> None:
    """Writes a file with the SHA-256 of every other file below a folder, except the named ones, which still change."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    digests = {name: _digest(folder / name) for name in names if name not in but}
    (folder / _NAME).write_text(json.dumps(digests, indent=0), encoding="utf-8")


def damage(folder: pathlib.Path) -> str:
    """Compares a folder's files with their digests; returns what is wrong, "" if nothing is."""
    digests: dict[str, str]
    try:
        digests = dict(json.loads((folder / _NAME).read_text(encoding="utf-8")))
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
