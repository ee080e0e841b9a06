"""What the values and colours in a folder's masks mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gcn_jax.data.specs import VOID, ClassSpec, DatasetSpec, voc_colors
from gcn_jax.errors import UserError

# Labels are bytes: class ids are below 254; 254 marks a value or colour of no class; 255 is void.
MAX_CLASSES = 254
NO_CLASS = 254
Pair = tuple[int, int]  # what a pixel holds: an id and a colour (65536 R + 256 G + B), -1 for one that it lacks


@dataclass(frozen=True)
class Legend:
    """The meaning of ids and colours.

    Attributes:
      spec: the label space.
      stated: the label (class or void) of each colour that the list of classes states, 65536 R + 256 G + B.
      void_ids: ids that are stated to be void; 255 is, too, and in 16 bits 65535.
      first_id: the id of the first class.
      void_place: how many classes stand before the line "void" in the list; None if none follows, or void has ids.
      origin: where the list comes from, for messages.
    """

    spec: DatasetSpec
    stated: Mapping[int, int] = field(default_factory=dict)
    void_ids: frozenset[int] = frozenset()
    first_id: int = 0
    void_place: int | None = None
    origin: str = "classes.txt"

    @cached_property
    def _of_ids(self) -> np.ndarray:
        """The label of each id, uint8 [2**16 + 1]; of -1, too."""
        labels = np.full(2**16 + 1, NO_CLASS, np.uint8)
        labels[self.first_id : self.first_id + self.spec.num_classes] = np.arange(self.spec.num_classes)
        labels[[VOID, 65535, *self.void_ids]] = VOID
        return labels

    @cached_property
    def _of_colors(self) -> np.ndarray:
        """The label of each colour, uint8 [2**24 + 1]; of -1, too."""
        labels = np.full(2**24 + 1, NO_CLASS, np.uint8)
        labels[list(self.stated)] = list(self.stated.values())
        return labels

    def labels(self, ids: np.ndarray, colors: np.ndarray, *, by_color: bool) -> np.ndarray:
        """The labels of ids, or of colours if `by_color`; both as in a `Pair`; `NO_CLASS` for those of no class."""
        return self._of_colors[colors] if by_color else self._of_ids[ids]

    def is_by_color(self, kind: str, examples: Mapping[Pair, str]) -> bool:
        """Decides for all masks of one kind together whether their colours count or their ids.

        Where both give each pixel a class or void, a stated colour wins over void. Otherwise both must say the same.

        Args:
          kind: "grey", "palette" or "RGB".
          examples: what the pixels hold, and for each a file that does.

        Raises:
          UserError: if ids and colours contradict each other, or the ids leave open which class they mean.
        """
        ids, colors = np.array(sorted(examples), int).reshape(-1, 2).T
        by_id, by_color = self._of_ids[ids], self._of_colors[colors]
        are_ids, are_colors = (by_id != NO_CLASS).all(), (by_color != NO_CLASS).all()
        if not are_ids or (kind == "RGB" and are_colors):
            return bool(self.stated) and (bool(are_colors) or kind == "RGB")
        is_wrong = (by_color != by_id) & (by_color != NO_CLASS) & ~np.isin(ids, list(self.void_ids))
        if (colors[by_id == by_color] == 0).any():  # black is a class's; elsewhere it fills what a palette leaves open
            is_wrong &= colors != 0
        is_void = np.isin(ids, (VOID, 65535))
        if are_colors and (is_wrong & is_void).any() and (kind == "grey" or is_void[is_wrong].all()):
            return True
        if kind == "grey" and not are_colors:
            is_wrong &= is_void
        if is_wrong.any():
            pair = int(ids[is_wrong][0]), int(colors[is_wrong][0])
            raise UserError(self._contradiction(kind, pair, examples[pair]))
        if self.void_place is not None:
            after = self.spec.class_names[self.void_place]
            raise UserError(
                f"{self.origin}: void stands before {after!r}, which leaves open whether void has an id of its own; "
                f"write 'void N' if N is void's id, or put the line last"
            )
        return False

    def _contradiction(self, kind: str, pair: Pair, file: str) -> str:
        value, color = pair
        by_id, by_color = int(self._of_ids[value]), int(self._of_colors[color])
        what, several = ("index", "indices") if kind == "palette" else ("value", "values")
        remedy = f"write 'void {value}' there" if by_id == VOID else "take the colours out of there"
        return (
            f"{file}: {what} {value} is {self._name(by_id)}, but its colour {color_text(color)} is that of "
            f"{self._name(by_color)} in {self.origin}; if the {several} count, {remedy}; if the colours count, save "
            f"the masks as RGB"
        )

    def _name(self, label: int) -> str:
        return "void" if label == VOID else f"class {label} {self.spec.class_names[label]!r}"

    def problem(self, pair: Pair, where: str, *, by_color: bool) -> str:
        """What is wrong with a pair of no class that lies at a place, and what to do."""
        value, color = pair
        if by_color:
            return (
                f"colour {color_text(color)} {where} is not in {self.origin}; add its class there, or save the mask "
                f"as PNG, without soft edges"
            )
        if value < 0:
            return (
                f"a mask must be a grey or palette image of class ids, but its mode is RGB; colours are understood if "
                f"{self.origin} says what each means, such as 'road {color_text(color)}'"
            )
        last = self.first_id + self.spec.num_classes - 1
        shifted = "" if value != last + 1 else ", or if the ids begin with 1, set --config.data.first_id=1"
        return (
            f"value {value} {where} is neither a class id ({self.first_id}-{last}) nor {VOID} for void; if {value} is "
            f"void, write a line 'void {value}' into {self.origin}; if it is a class, add its name{shifted}"
        )


def legend_of(spec: DatasetSpec) -> Legend:
    """The legend of a data set whose masks have its classes' ids, and palettes of their colours."""
    colors = {c.color: i for i, c in enumerate(spec.classes)} | {spec.void_color: VOID}
    stated = {red << 16 | green << 8 | blue: label for (red, green, blue), label in colors.items()}
    return Legend(spec, stated, origin=f"the classes of {spec.name}")


def color_text(color: int) -> str:
    """A packed colour as "R G B"."""
    return f"{color >> 16} {color >> 8 & 255} {color & 255}"


def parse_classes(
    lines: Sequence[str], origin: str = "classes.txt", first_id: int = 0, multi_label: bool = False
) -> Legend:
    """Parses the classes of a folder; empty lines and lines that start with # are skipped.

    Args:
      lines: "name" or "name R G B" (or with commas), one per class, in the order of their ids; "void R G B" for void's
        colour, "void N" for an id that is void, "void N R G B" for both.
      origin: where the lines come from, for messages.
      first_id: the id of the first class.
      multi_label: whether a pixel may have several classes; then the first is no background.

    Returns:
      The meaning of ids and colours. In pictures, classes without a colour get VOC's colours.

    Raises:
      UserError: naming the line that is wrong.
    """
    classes: list[ClassSpec] = []
    void_color = DatasetSpec.void_color
    stated: dict[int, int] = {}
    void_ids: set[int] = set()
    void_place = None
    palette = list(voc_colors())[multi_label:]  # without black, the background's
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        is_void = words[0] == "void" and all(word.isdecimal() for word in words[1:]) and len(words) < 6
        numbers = words[-3:] if len(words) > 3 and all(word.isdecimal() for word in words[-3:]) else []
        name = "void" if is_void else " ".join(words[: len(words) - len(numbers)])
        red, green, blue = map(int, numbers) if numbers else palette[len(classes) % 255]
        color = red << 16 | green << 8 | blue
        if max(red, green, blue) > 255:
            raise UserError(f"{origin}, line {number}: colour {' '.join(numbers)} is not of 0-255")
        if (numbers and color in stated) or name in (c.name for c in classes):
            raise UserError(f"{origin}, line {number}: {line.strip()!r} repeats the name or colour of another class")
        if is_void:
            void_color = (red, green, blue) if numbers else void_color
            if len(words) in (2, 5):
                void_ids.add(int(words[1]))
            else:
                void_place = len(classes)
        else:
            classes.append(ClassSpec(name, (red, green, blue)))
        if numbers:
            stated[color] = VOID if is_void else len(classes) - 1
    if not 2 <= len(classes) <= MAX_CLASSES:
        advice = "; one class alone: configs/folder.py:binary" if multi_label and len(classes) == 1 else ""
        raise UserError(f"{origin}: {len(classes)} classes; there must be 2 to {MAX_CLASSES}{advice}")
    _check_void(void_ids, classes, first_id, origin)
    if stated:
        stated.setdefault(void_color[0] << 16 | void_color[1] << 8 | void_color[2], VOID)
    spec = DatasetSpec("folder", tuple(classes), void_color, multi_label)
    follows = void_place is not None and void_place < len(classes) and not void_ids
    return Legend(spec, stated, frozenset(void_ids), first_id, void_place if follows else None, origin)


def _check_void(void_ids: set[int], classes: Sequence[ClassSpec], first_id: int, origin: str) -> None:
    """Raises `UserError` for an id of void that cannot be one, or is a class's."""
    for value in sorted(void_ids):
        if not 0 <= value < 2**16:
            raise UserError(f"{origin}: 'void {value}': ids are 0 to 65535")
        if 0 <= value - first_id < len(classes):
            name = classes[value - first_id].name
            raise UserError(
                f"{origin}: {value} is void, but also the id of class {name!r}; if the ids of the classes begin with "
                f"{value + 1}, set --config.data.first_id={value + 1}; otherwise take {name!r} or the line out"
            )
