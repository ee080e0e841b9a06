"""What photographs may be: more than 8 bits, any EXIF, damage of any kind; against files written by the letter."""

import io
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from gcn_jax.data import image_files
from gcn_jax.data.images import decode_image, orientation, white_of
from gcn_jax.data.masks import read_mask
from gcn_jax.errors import UserError
from tests.image_bytes import (
    NEGATIVE,
    SIZE,
    encoded,
    exif,
    files_with,
    jpeg2000_of_16_bits,
    mutated,
    photo,
    png,
    samples,
    seeds,
    tiff,
    turned_by,
)  # fmt: skip

ROOT = pathlib.Path(__file__).parents[1]


def scaled(values, white):
    """The rule by floats: half of a level goes up."""
    return np.minimum(np.floor(values.astype(np.float64) * 255 / white + 0.5), 255).astype(np.uint8)


def colors_of(values):
    """The colours of samples [H, W, bands], RGB."""
    return values[..., :3] if values.shape[-1] > 2 else values[..., [0, 0, 0]]


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("largest", [255, 256, 1023, 4000, 4095, 32768, 65535])
def test_pngs_of_16_bits_keep_them_all(bands, largest):
    values = samples(largest, (*SIZE[::-1], bands))
    white = 2 ** max(8, largest.bit_length()) - 1
    for interlaced in (False, True):
        data = png(values, interlaced=interlaced)
        np.testing.assert_array_equal(decode_image(data, "x"), scaled(colors_of(values), white))
        np.testing.assert_array_equal(decode_image(data, "x", white=5000), scaled(colors_of(values), 5000))
        assert white_of(data, "x") == (white if white > 255 else 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 5, 8])
def test_tiffs_of_16_bits_keep_them_all(order, compression):
    for bands, tags, planes in (
        (1, (), False), (1, (), True), (3, (), False), (3, (), True), (4, ((338, [2]),), False),
        (4, ((338, [2]),), True), (4, ((338, [0]),), False), (4, ((262, [5]),), False),
    ):  # fmt: skip
        values = samples(3000, (*SIZE[::-1], bands))
        data = tiff(values, order=order, compression=compression, planes=planes, tags=tags)
        if planes and compression > 1 and bands > 1:  # Pillow has no way to the low bytes
            with pytest.raises(
                UserError, match=r"x\.tif: TIFF of more than 8 bits a channel, of a kind that is not read"
            ):
                decode_image(data, "x.tif")
            continue
        expected = scaled(colors_of(values), 4095)
        if tags == ((262, [5]),):
            expected = np.asarray(Image.frombytes("CMYK", SIZE, scaled(values, 4095).tobytes()).convert("RGB"))
        np.testing.assert_array_equal(decode_image(data, "x.tif"), expected)
        assert white_of(data, "x.tif") == 4095


@pytest.mark.parametrize("compression", [1, 8])
def test_colours_multiplied_by_opacity_and_greys_whose_white_is_0(compression):
    values = samples(65535, (*SIZE[::-1], 4))
    values[0, 0] = 0
    data = tiff(values, compression=compression, tags=[(338, [1])])
    straight = np.minimum(values[..., :3].astype(int) * 65535 // np.maximum(values[..., 3:], 1), 65535)
    np.testing.assert_array_equal(decode_image(data, "x"), scaled(straight, 65535))
    grey = values[..., :1]
    data = tiff(grey, compression=compression, tags=[(262, [0])])
    np.testing.assert_array_equal(decode_image(data, "x"), scaled(colors_of(65535 - grey), 65535))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_wider_and_signed_numbers_are_read_within_16_bits_and_else_named(order, compression):
    """Pillow takes those of a compressed file in the wrong order of bytes."""
    values = samples(1000, (*SIZE[::-1], 1))
    for kind in (np.int16, np.int32):
        data = tiff(values.astype(kind), order=order, compression=compression)
        np.testing.assert_array_equal(decode_image(data, "x"), scaled(colors_of(values), 1023))
        for wrong in (-1, 65536 if kind == np.int32 else -30000):
            beyond = values.astype(kind)
            beyond[2, 3] = wrong
            data = tiff(beyond, order=order, compression=compression)
            with pytest.raises(UserError, match=rf"a\.tif: has 32-bit channels, with values from .*{wrong}"):
                decode_image(data, "a.tif")
    floats = encoded(Image.fromarray(values[..., 0].astype(np.float32)), "TIFF")
    with pytest.raises(UserError, match=r"a\.tif: has 32-bit channels; convert it"):
        decode_image(floats, "a.tif")


def test_what_a_file_states_of_white_counts_if_its_values_keep_to_it():
    values = samples(900, (*SIZE[::-1], 3))
    for data, white in (
        (png(values, (b"sBIT", bytes([10, 12, 9]))), 4095),
        (png(values, (b"sBIT", bytes([9, 9, 9]))), 1023),  # not true
        (png(values, (b"sBIT", b"")), 1023),
        (png(values[..., :1], (b"sBIT", bytes([14]))), 2**14 - 1),
        (png(values[..., :2], (b"sBIT", bytes([11, 16]))), 2047),  # the second is of transparency
        (png(np.concatenate([values, values[..., :1]], -1), (b"sBIT", bytes([11, 11, 11, 16]))), 2047),
        (tiff(values, tags=[(281, [2000] * 3)]), 2000),
        (tiff(values, tags=[(281, [899])]), 1023),
        (tiff(values[..., :1], tags=[(281, [3000])]), 3000),
    ):
        assert white_of(data, "x") == white
        expected = scaled(colors_of(values[..., : 1 if white_is_grey(data) else 3]), white)
        np.testing.assert_array_equal(decode_image(data, "x"), expected)
    assert white_of(png(values[:1] // 4, (b"sBIT", bytes([12, 12, 12]))), "x") == 4095, "though all are below 256"


def white_is_grey(data):
    return Image.open(io.BytesIO(data)).mode.startswith("I") or data[25] == 4


def test_tiffs_of_12_bits():
    values = samples(3000, (4, 6, 1))
    pairs = values.reshape(-1, 2).astype(int)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
    rows = packed.astype(np.uint8).reshape(4, 9, 1)
    data = tiff(rows, tags=[(256, [6]), (258, [12])])
    np.testing.assert_array_equal(decode_image(data, "x"), scaled(colors_of(values), 4095))
    assert white_of(data, "x") == 4095


def test_netpbm_files_of_more_than_8_bits_and_what_is_not_read_in_full():
    values = samples(900, (*SIZE[::-1], 3))
    for magic, bands in (("P5", 1), ("P6", 3)):
        for white in (1000, 65535):
            data = f"{magic}\n9 7\n{white}\n".encode() + values[..., :bands].astype(">u2").tobytes()
            np.testing.assert_array_equal(decode_image(data, "x"), scaled(colors_of(values[..., :bands]), white))
            assert white_of(data, "x") == white
            with pytest.raises(UserError, match="x: damaged or truncated"):
                decode_image(data[:-1], "x")
    plain = b"P3\n1 1\n1000\n1 2 3\n"
    deep = jpeg2000_of_16_bits(encoded(photo(), "JPEG2000"))
    for data, name in ((plain, "a.ppm"), (deep, "a.jp2")):
        with pytest.raises(UserError, match=rf"{name}: .* of more than 8 bits a channel, .*save it as PNG"):
            decode_image(data, name)
    grey = Image.fromarray(values[..., 0])
    np.testing.assert_array_equal(
        decode_image(encoded(grey, "JPEG2000"), "x"), scaled(colors_of(values[..., :1]), 1023)
    )


def test_images_of_8_bits_are_as_they_were():
    for data in (
        encoded(photo(), "JPEG"), encoded(photo(), "PNG"), encoded(photo(), "TIFF"), encoded(photo(), "BMP"),
        encoded(photo(), "WEBP", lossless=True), encoded(photo().convert("P"), "GIF"), encoded(photo(), "PPM"),
        encoded(photo().convert("LA"), "PNG"), encoded(photo().convert("1"), "PNG"), encoded(photo(), "AVIF"),
        encoded(photo(), "MPO", save_all=True, append_images=[photo().rotate(180)]),
        png(np.arange(63, dtype=np.uint8).reshape(7, 9), (b"sBIT", b"\4")),
    ):  # fmt: skip
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for white in (0, 100):
            np.testing.assert_array_equal(decode_image(data, "x", white=white), expected)
        assert white_of(data, "x") == 0


@pytest.mark.parametrize("way", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "deep"])
def test_images_are_turned_by_the_orientation_alone(kind, way):
    if kind == "deep":
        stored = samples(65535, (*SIZE[::-1], 3))
        files = [tiff(stored, tags=[(274, [way])]), tiff(stored, compression=8, tags=[(274, [way])])]
        files += [png(stored, (b"eXIf", exif(turned_by(way)))), png(stored, after=[(b"eXIf", exif(turned_by(way)))])]
        pixels = scaled(stored, 65535)
    else:
        block = Image.Exif()
        block[0x0112] = way
        options = {"exif": block} if kind != "WEBP" else {"exif": block, "lossless": True}
        files, pixels = (
            [encoded(photo(), kind, **options)],
            decode_image(encoded(photo(), kind, **options), "x", turned=False),
        )
        assert pixels.shape == (*SIZE[::-1], 3)
    by_hand = Image.fromarray(pixels)
    if way > 1:
        by_hand = by_hand.transpose(_WAYS[way])
    for data in files:
        assert orientation(data, "x") == way
        np.testing.assert_array_equal(decode_image(data, "x", turned=False), pixels)
        np.testing.assert_array_equal(decode_image(data, "x"), np.asarray(by_hand))


_WAYS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_BAD_BLOCKS = (
    bytes.fromhex("0008000201120003"),
    bytes.fromhex("00001100000104006761726261676521"),
    b"", b"I", b"II*\0", b"MM\0*\0\0\0\7", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff",
    exif((0x0112, 2, 1, b"6\0\0\0")), exif(turned_by(9)), exif(turned_by(0)),
    exif((0x0112, 12, 1, b"\6\0\0\0")), exif((0x0112, 5, 1, b"\xff\xff\xff\0")),
)  # fmt: skip
_LEGIBLE = (
    exif(turned_by(6), NEGATIVE),
    exif(NEGATIVE, turned_by(6)),
    exif(turned_by(6), (0x8769, 4, 1, b"\xff\xff\xff\x7f")),  # places that are outside
    exif(turned_by(6), (0x8825, 4, 1, struct.pack("<I", 3))),
    exif(turned_by(6), (0x010F, 2, 1000, b"\xff\0\0\0"), (0x9000, 99, 1, b"\0\0\0\0")),
    exif(turned_by(6), (0x011A, 5, 1, struct.pack("<I", 8))),
    exif(turned_by(6))[:-2],
)


@pytest.mark.parametrize("block", _BAD_BLOCKS)
def test_a_malformed_exif_block_turns_nothing(block):
    for data, pixels in files_with(block):
        assert orientation(data, "x") == 1
        np.testing.assert_array_equal(decode_image(data, "x"), pixels)


@pytest.mark.parametrize("block", _LEGIBLE)
def test_a_legible_orientation_counts_whatever_is_beside_it(block):
    for data, pixels in files_with(block):
        assert orientation(data, "x") == 6
        np.testing.assert_array_equal(decode_image(data, "x"), np.rot90(pixels, 3))


@pytest.mark.parametrize("compression", [1, 8])
def test_a_tiff_whose_other_tags_are_malformed_is_read(compression):
    pixels = np.asarray(photo())
    for tags in ([(34665, [7])], [(34665, [60000])], [(34853, [3, 4])], [(700, [1, 2])], [(274, [11])]):
        data = tiff(pixels, compression=compression, tags=tags)
        np.testing.assert_array_equal(decode_image(data, "x"), pixels)
        data = tiff(pixels, compression=compression, tags=[(274, [6]), *(tag for tag in tags if tag[0] != 274)])
        np.testing.assert_array_equal(decode_image(data, "x"), np.rot90(pixels, 3))
        np.testing.assert_array_equal(decode_image(data, "x", turned=False), pixels)
        image = image_files.load_pixels(image_files.open_image(data, "x"), "x")  # as masks are read
        np.testing.assert_array_equal(np.asarray(image), np.rot90(pixels, 3))


def check_survives(data):
    """Each reading gives an image, or one line that names the file."""
    for read in (decode_image, orientation, white_of, read_mask):
        try:
            found, told = read(data, "photo.jpg"), ""
        except UserError as error:
            found, told = None, str(error)
        assert not told or (told.startswith("photo.jpg: ") and len(told.splitlines()) == 1)
        if read == decode_image and found is not None:
            assert (found.dtype, found.shape[2:]) == (np.uint8, (3,))


_ANY = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@given(number=st.integers(0, 39), rng=st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=400, **_ANY)
def test_no_bytes_raise_anything_else(number, rng):
    check_survives(mutated(seeds()[number], rng))


@pytest.mark.slow
@given(number=st.integers(0, 39), rng=st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=8000, **_ANY)
def test_thousands_of_damaged_files(number, rng):
    check_survives(mutated(seeds()[number], rng))


@pytest.mark.slow
@given(block=st.binary(max_size=60) | st.binary(max_size=60).map(b"II*\0\x08\0\0\0".__add__))
@hypothesis_settings(max_examples=3000, **_ANY)
def test_no_exif_block_hides_the_pixels(block):
    for data, pixels in files_with(block):
        way = orientation(data, "x")
        turned = pixels if way == 1 else np.asarray(Image.fromarray(pixels).transpose(_WAYS[way]))
        np.testing.assert_array_equal(decode_image(data, "x"), turned)


@pytest.mark.parametrize("error", [RecursionError, OverflowError, MemoryError, KeyError, AssertionError])
def test_whatever_pillow_raises_is_one_line(error, monkeypatch):
    def fail(*args, **options):
        raise error("one\ntwo")

    data = encoded(photo(), "PNG")
    for owner, name in ((Image, "open"), (Image.Image, "load"), (Image.Image, "convert")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(UserError, match=r"\Ax\.png: [^\n]+\Z"):
                decode_image(data, "x.png")


_READ_ALL = """
import pathlib, sys
from concurrent.futures import ThreadPoolExecutor
from gcn_jax.data.images import decode_image
from gcn_jax.data.masks import read_mask
from gcn_jax.errors import UserError
def read(path):
    try:
        return decode_image(path.read_bytes(), path.name).shape
    except UserError:
        return ""
with ThreadPoolExecutor(8) as pool:
    print(len(list(filter(None, pool.map(read, 3 * list(pathlib.Path(sys.argv[1]).iterdir()))))))
"""


def test_what_pillow_and_its_libraries_tell_is_not_shown(tmp_path):
    whole = [data for data, _ in files_with(_LEGIBLE[4])] + [data for data, _ in files_with(_LEGIBLE[-1])]
    whole.append(encoded(photo().convert("P"), "PNG", transparency=bytes(range(200))))
    with pytest.warns(UserWarning, match="Skipping tag"):  # as Pillow does
        Image.open(io.BytesIO(whole[0])).getexif()
    packed = [tiff(np.asarray(photo()), compression=compression) for compression in (5, 8)]
    damaged = [data[:9] + 60 * b"\xff" + data[69:] for data in packed]
    damaged.append(tiff(np.asarray(photo()), tags=[(277, [99])]))  # which Pillow logs
    for i, data in enumerate(whole + damaged):
        (tmp_path / str(i)).write_bytes(data)
    command = [sys.executable, "-c", _READ_ALL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == (f"{3 * len(whole)}\n", "")


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif", ".jfif", ".JPE", ".JPG", ".Tiff"])
def test_suffixes(suffix):
    assert suffix.lower() in image_files.IMAGE_SUFFIXES


def test_heif_needs_its_library_and_says_so(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    data = encoded(photo().resize((64, 48)), "HEIF", quality=-1, exif=b"Exif\0\0" + exif(turned_by(6)))
    image = decode_image(data, "a.heic")
    assert image.shape == (64, 48, 3)
    expected = np.rot90(np.asarray(photo().resize((64, 48)), int), 3)
    assert abs(image - expected).mean() < 3
    assert orientation(data, "a.heic") == 1, "libheif turns by itself"
    monkeypatch.setattr(image_files, "_can_read_heif", lambda: False)
    with pytest.raises(UserError, match=r"a\.heic: a HEIF image needs a library: pip install .*\[heif\]"):
        decode_image(data, "a.heic")


def test_heif_is_told_from_avif_by_any_brand():
    for brands, expected in (
        (b"heic\0\0\0\0mif1", "HEIF"),
        (b"mif1\0\0\0\0miafavif", "AVIF"),
        (b"avis\0\0\0\0", "AVIF"),
    ):
        data = struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + b"avif"
        assert image_files._format_of_brand(data, "x") == expected
