"""Lists of classes in the forms that tools write, as lines of our own form; see `gcn_jax.data.legend`."""

import json
import re
from collections.abc import Sequence

from gcn_jax.data.texts import read_lines
from gcn_jax.errors import UserError

# The names under which a list of classes is looked for; the first that is there counts.
FILE_NAMES = (
    "classes.txt",
    "labelmap.txt",  # CVAT
    "class_dict.csv",  # CamVid, as published on Kaggle
    "class_dict_seg.csv",  # drone images there
    "label_colors.txt",  # CamVid
    "_classes.csv",  # Roboflow
    "class_names.txt",  # labelme
    "obj_class_to_machine_color.json",  # Supervisely
)
_VOID = ("void", "_void_", "__ignore__")
_COLOR = r"(\d+)\s*,\s*(\d+)\s*,\s*(\d+)"
_FORMS = "NAME, NAME R G B, NAME,R,G,B, ID NAME, R G B NAME or NAME:R,G,B:parts:actions"
_HEADER = re.compile(
    r"(\w+[ ,]+)?(r[ ,]+g[ ,]+b|red[ ,]+green[ ,]+blue)([ ,]+\w+)?|pixel value *, *class|id *, *name", re.IGNORECASE
)


def canonical_lines(data: bytes, origin: str) -> tuple[str, ...]:
    """The classes of a file, in the order of their ids, each as "name" or "name R G B"; void as "void R G B", "void N".

    Args:
      data: the file's bytes.
      origin: the file's name, by whose ending JSON is recognised; for messages.

    Raises:
      UserError: naming the line that is in none of the forms.
    """
    if origin.endswith(".json"):
        return _of_machine_colors(data, origin)
    lines: list[str] = []
    for number, line in enumerate(read_lines(data, origin), 1):
        if not line or line.startswith("#") or (not lines and _HEADER.fullmatch(line)):
            continue
        found = next(filter(None, (form(line) for form in (_of_cvat, _of_color_first, _of_name_first))), None)
        if not found and (match := re.fullmatch(r"(\d+)\s*[ ,:\t]\s*([^\d\s:;|,][^:;|,\t]*)", line)):
            found = _of_id_first(int(match[1]), match[2], len(lines), f"{origin}, line {number}")
        if not found:
            raise UserError(f"{origin}, line {number}: {line!r} is in none of the forms of a class: {_FORMS}")
        lines.append(found)
    return tuple(lines)


def _line(name: str, numbers: Sequence[str]) -> str:
    name = " ".join(name.split())
    return " ".join(["void" if name.lower() in _VOID else name, *numbers])


def _of_cvat(line: str) -> str | None:
    match = re.fullmatch(rf"([^:]+):(?:{_COLOR})?:[^:]*:[^:]*", line)
    return match and _line(match[1], [number for number in match.groups()[1:] if number])


def _of_color_first(line: str) -> str | None:
    match = re.fullmatch(r"(\d+)[ ,\t]+(\d+)[ ,\t]+(\d+)[ ,\t]+([^\d\s:;|,][^:;|,\t]*)", line)
    return match and _line(match[4], match.groups()[:3])


def _of_name_first(line: str) -> str | None:
    match = re.fullmatch(r"(?!\d+(?:[\s,:]|$))([^\s:;|,，：；][^:;|,，：；\t]*?)((?:[ ,\t]+\d+)*)", line)
    numbers = re.findall(r"\d+", match[2]) if match else []
    return _line(match[1], numbers) if match and len(numbers) in (0, 1, 3, 4) else None


def _of_id_first(class_id: int, name: str, place: int, where: str) -> str:
    if name.lower() in _VOID:
        return f"void {class_id}"
    if class_id != place:
        raise UserError(
            f"{where}: {name!r} has the id {class_id}, but is in place {place}: classes must stand in the order of "
            f"their ids, 0, 1, 2, ...; leave the ids away where they begin with 1, and set --config.data.first_id=1"
        )
    return _line(name, [])


def _of_machine_colors(data: bytes, origin: str) -> tuple[str, ...]:
    """Supervisely's table of the grey values in its masks; what it does not name, 0, is background."""
    try:
        colors = {name: tuple(map(int, color)) for name, color in json.loads(data).items()}
        ordered = sorted(colors.items(), key=lambda item: item[1])
        lines = tuple(_line(name, [str(number) for number in color]) for name, color in ordered)
        if any(len(color) != 3 for color in colors.values()):
            raise ValueError("a colour is not three numbers")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{origin}: not a table such as {{'cat': [1, 1, 1]}} ({error})") from error
    return lines if (0, 0, 0) in colors.values() else ("background 0 0 0", *lines)
