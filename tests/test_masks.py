"""Masks as tools write them: which values count, which colours, and what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gcn_jax.data.legend import legend_of, parse_classes
from gcn_jax.data.masks import decode_ids, read_mask
from gcn_jax.data.specs import VOC
from gcn_jax.errors import UserError

LABEL = np.random.default_rng(0).integers(0, 3, (12, 16)).astype(np.uint8)
LABEL[0, :4] = 0, 1, 2, 255
NAMES = ["background", "cat", "dog"]


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def paletted(values, colors):
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(np.asarray(colors, np.uint8).tobytes())
    return image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, bits, color_type=0):
    """A PNG of samples of any number of bits, written by hand after ISO/IEC 15948."""
    height, width = values.shape[:2]
    shifts = np.arange(bits)[::-1]
    rows = (values.reshape(height, -1, 1).astype(np.uint32) >> shifts & 1).reshape(height, -1).astype(np.uint8)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def labels(*files, lines=("background", "cat", "dog"), first_id=0):
    """What files mean together, as those of a folder do."""
    legend = parse_classes(lines, first_id=first_id)
    masks = [read_mask(data, f"{i}.png") for i, data in enumerate(files)]
    examples = {}
    for i, mask in enumerate(masks):
        examples.setdefault(mask.kind, {}).update(dict.fromkeys(mask.counts("x"), f"{i}.png"))
    by_color = {kind: legend.is_by_color(kind, found) for kind, found in examples.items()}
    return [mask.labels(legend, by_color[mask.kind], f"{i}.png") for i, mask in enumerate(masks)]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_samples_count_at_any_depth(bits):
    label = LABEL if bits >= 8 else (LABEL % 3).clip(max=2**bits - 1)
    values = np.where(label == 255, 65535, label) if bits == 16 else label
    (found,) = labels(png(values, bits), lines=[*NAMES, "bird"])
    np.testing.assert_array_equal(found, label)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(decode_ids(png(values, bits), "x", 4), label)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_samples_of_palettes_and_tiffs_of_few_bits_count(bits):
    label = (LABEL % 3).clip(max=2**bits - 1)
    image = paletted(label, np.zeros((2**bits, 3)) + np.arange(2**bits)[:, None])
    np.testing.assert_array_equal(labels(encoded(image, bits=bits))[0], label)
    if bits == 1:
        for options in ({}, {"compression": "group4"}, {"compression": "tiff_lzw"}):
            data = encoded(Image.fromarray(label.astype(bool)), "TIFF", **options)
            np.testing.assert_array_equal(labels(data)[0], label)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "LZW"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_grey_ids_in_every_mode(kind, mode):
    if kind == "BMP":
        mode = mode.rstrip("A")
    options = {"compression": "tiff_lzw"} if kind == "LZW" else {}
    image = Image.fromarray(LABEL).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(np.where(LABEL == 1, 0, 255).astype(np.uint8)))
    np.testing.assert_array_equal(labels(encoded(image, kind.replace("LZW", "TIFF"), **options))[0], LABEL)


def test_lossless_webp_and_32_bit_tiffs():
    rgb = Image.fromarray(LABEL).convert("RGB")
    np.testing.assert_array_equal(labels(encoded(rgb, "WEBP", lossless=True))[0], LABEL)
    np.testing.assert_array_equal(labels(encoded(Image.fromarray(LABEL.astype(np.int32)), "TIFF"))[0], LABEL)
    with pytest.raises(UserError, match=r"x: holds values outside of 0-65535"):
        read_mask(encoded(Image.fromarray(LABEL.astype(np.int32) - 1), "TIFF"), "x")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 100}),
        ("WEBP", {"quality": 100}),
        ("TIFF", {"compression": "jpeg"}),
        ("JPEG2000", {}),
        ("GIF", {}),
        ("JPEG2000", {"irreversible": True}),
    ],
)
def test_lossy_masks_are_refused_whatever_they_hold(kind, options):
    for values in (np.zeros_like(LABEL), LABEL):
        data = encoded(Image.fromarray(values).convert("RGB"), kind, **options)
        with pytest.raises(UserError, match=rf"m\.x: a mask in {kind}, .* export .* as PNG"):
            read_mask(data, "m.x")


def test_masks_that_say_less_than_they_hold_are_refused():
    wide = np.repeat(LABEL[..., None], 3, -1)
    with pytest.raises(UserError, match="a mask of 16 bits per colour"):
        read_mask(png(wide, 16, color_type=2), "x")
    pages = [Image.fromarray(LABEL), Image.fromarray(LABEL)]
    with pytest.raises(UserError, match="holds 2 pages; a mask is one image"):
        read_mask(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]), "x")
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    with pytest.raises(UserError, match=r"holds \d+ colours, too many for a mask"):
        read_mask(encoded(Image.fromarray(noise)), "x").counts("x")


BINARY = np.where(LABEL == 1, 255, 0).astype(np.uint8)
BLACK_WHITE = ["background 0 0 0", "person 255 255 255"]


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "LA", "RGBA", "1", "16"])
@pytest.mark.parametrize("lines", [BLACK_WHITE, BLACK_WHITE[::-1], [*BLACK_WHITE, "void 9 9 9"]])
def test_a_stated_colour_wins_over_void(mode, lines):
    image = Image.fromarray(BINARY)
    if mode == "16":
        data = png(BINARY.astype(np.uint16) * 257, 16)
    elif mode == "P":
        data = encoded(paletted(BINARY, np.repeat(np.arange(256), 3)))
    else:
        data = encoded(image.convert(mode))
    white = [line.endswith("255") for line in lines].index(True)
    if mode == "1" and white == 0:  # the samples are 0 and 1, but their colours are stated to be 1 and 0
        with pytest.raises(UserError, match=r"value 0 is class 0 'person', but its colour 0 0 0 is that of class 1"):
            labels(data, lines=lines)
        return
    if mode == "P" and white == 0:
        with pytest.raises(UserError, match=r"index 0 is class 0 'person', but its colour 0 0 0 is that of class 1"):
            labels(data, lines=lines)
        return
    black = encoded(Image.fromarray(np.zeros_like(BINARY)).convert("L" if mode in ("1", "16", "P") else mode))
    found, *rest = labels(data, *([black] if mode not in ("1", "16", "P") else []), lines=lines)
    np.testing.assert_array_equal(found, np.where(BINARY == 255, white, 1 - white))
    assert all((label == 1 - white).all() for label in rest), "an all-black mask is read as the others are"


def test_three_greys_are_colours_if_they_are_stated():
    greys = np.array([0, 128, 255], np.uint8)[LABEL % 3]
    (found,) = labels(encoded(Image.fromarray(greys)), lines=["a 0 0 0", "b 128 128 128", "c 255 255 255"])
    np.testing.assert_array_equal(found, LABEL % 3)


def test_where_ids_hold_255_and_white_is_a_class_the_user_is_asked():
    lines = ["background 0 0 0", "cat 9 9 0", "person 255 255 255"]
    data = encoded(Image.fromarray(LABEL))
    with pytest.raises(UserError, match=r"0\.png: value 255 is void, but its colour 255 255 255 .* 'void 255'"):
        labels(data, lines=lines)
    np.testing.assert_array_equal(labels(data, lines=[*lines, "void 255"])[0], LABEL)


COLORS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)])
COLOR_LINES = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(NAMES, COLORS, strict=True)]


def test_a_palette_that_contradicts_the_classes_is_refused():
    swapped = paletted(np.array([0, 2, 1], np.uint8)[LABEL % 3], COLORS[[0, 2, 1]])
    with pytest.raises(UserError) as error:
        labels(encoded(swapped), lines=COLOR_LINES)
    assert str(error.value) == (
        "0.png: index 1 is class 1 'cat', but its colour 0 128 0 is that of class 2 'dog' in classes.txt; if the "
        "indices count, take the colours out of there; if the colours count, save the masks as RGB"
    )
    rgb = encoded(swapped.convert("RGB"))
    np.testing.assert_array_equal(labels(rgb, lines=COLOR_LINES)[0], LABEL % 3)
    bare = labels(encoded(swapped))[0]
    np.testing.assert_array_equal(bare, np.array([0, 2, 1])[LABEL % 3], err_msg="no colours are stated")
    official = encoded(paletted(LABEL, VOC.palette()[[0, 2, 1, *range(3, 256)]]))
    with pytest.raises(UserError, match=r"m\.png: index 1 is class 1 'aeroplane'"):
        decode_ids(official, "m.png", 21, legend_of(VOC))


@pytest.mark.parametrize("fill", [0, 77])
def test_a_palette_that_leaves_entries_open_says_nothing_of_them(fill):
    colors = np.full((256, 3), fill)
    colors[:2] = COLORS[:2]  # index 2 and void are drawn in black, or in a colour of no class
    np.testing.assert_array_equal(labels(encoded(paletted(LABEL, colors)), lines=COLOR_LINES)[0], LABEL)


def test_a_palette_of_other_indices_is_read_by_its_colours():
    colors = np.zeros((256, 3), int)
    colors[[10, 20, 30]] = COLORS
    image = paletted(np.array([10, 20, 30], np.uint8)[LABEL % 3], colors)
    np.testing.assert_array_equal(labels(encoded(image), lines=COLOR_LINES)[0], LABEL % 3)


def test_void_by_another_id():
    lines = [*NAMES, "void 11"]
    values = np.where(LABEL == 255, 11, LABEL).astype(np.uint8)
    np.testing.assert_array_equal(labels(encoded(Image.fromarray(values)), lines=lines)[0], LABEL)
    with pytest.raises(UserError, match=r"value 11 .* if 11 is void, write a line 'void 11' into classes\.txt"):
        labels(encoded(Image.fromarray(values)))
    shifted = np.where(LABEL == 255, 0, LABEL + 1).astype(np.uint8)  # as ADE20K's
    with pytest.raises(UserError, match=r"value 3 .* or if the ids begin with 1, set --config\.data\.first_id=1"):
        labels(encoded(Image.fromarray(shifted)))
    with pytest.raises(UserError, match=r"0 is void, but also the id of class 'background'; .*first_id=1"):
        labels(encoded(Image.fromarray(shifted)), lines=[*NAMES, "void 0"])
    found = labels(encoded(Image.fromarray(shifted)), lines=[*NAMES, "void 0"], first_id=1)
    np.testing.assert_array_equal(found[0], LABEL)
    with pytest.raises(UserError, match=r"void stands before 'cat', which leaves open"):
        labels(encoded(Image.fromarray(LABEL)), lines=["background", "void", "cat", "dog"])
