"""Reads text files as people and their tools write them: with a byte order mark, in UTF-16, with names of any bytes."""

import codecs
import os
import re
import unicodedata

from gcn_jax.errors import UserError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_lines(data: bytes, name: str, *, are_names: bool = False) -> list[str]:
    r"""The lines of a text file, without white space around them; empty ones stay, so that lines can be counted.

    Args:
      data: the file's bytes, UTF-8 or, which is recognised, UTF-16 or UTF-32; with or without a byte order mark.
      name: of the file, for messages.
      are_names: whether the lines are names of files, which may have any bytes: then ``caf\xe9`` stays readable as the
        text that `printable` makes of it.

    Raises:
      UserError: naming the first line that is not UTF-8.
    """
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data:  # no text has it: UTF-16 without its mark
        encoding = "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
    try:
        text = data.decode(encoding, "backslashreplace" if are_names and encoding.startswith("utf-8") else "strict")
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n|\r|\n", data[: error.start]))
        raise UserError(f"{name}, line {line}: not UTF-8 text; save the file as UTF-8") from error
    return [unicodedata.normalize("NFC", line.strip("﻿​ \t")) for line in re.split(r"\r\n|\r|\n", text)]


def printable(name: str) -> str:
    r"""A file's name as text: composed (NFC), and ``\xe9`` for a byte that is not UTF-8.

    Two names that look alike, composed by one system and decomposed by another, are then the same.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
