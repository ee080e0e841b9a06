"""Image files written by the letter of their formats: what Pillow does not write, and what no program should."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

from gcn_jax.data.image_files import png_chunks

SIZE = (9, 7)  # width, height
NEGATIVE = (0xA217, 9, 1, struct.pack("<i", -5))  # an entry of `exif`: a signed LONG, which Pillow cannot write


def photo():
    """Smooth colours, which JPEG keeps."""
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples, *chunks, after=(), interlaced=False):
    """A PNG of uint8 or uint16 [H, W], or [H, W, 2 to 4]: grey and transparency, RGB, RGBA.

    Args:
      samples: the pixels.
      *chunks: (kind, body) of further chunks before the pixels.
      after: the same, after the pixels.
      interlaced: by Adam7.
    """
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width, bands = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        if part.size:
            rows += b"".join(b"\0" + row.astype(f">u{samples.itemsize}").tobytes() for row in part)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, color, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def _lzw(data):
    """TIFF's LZW: nothing but single bytes and the code that starts again."""
    codes = []
    for start in range(0, len(data), 250):
        codes += [256, *data[start : start + 250]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


_PACKED = {1: bytes, 5: _lzw, 8: zlib.compress}  # by TIFF's number of the compression


def tiff(samples, *, order="<", compression=1, planes=False, tags=()):
    """A TIFF of [H, W] or [H, W, bands] of any type of whole numbers.

    Args:
      samples: the pixels.
      order: of bytes, "<" or ">".
      compression: 1 (none), 5 (LZW) or 8 (deflate).
      planes: whether the bands are stored one after the other.
      tags: (number, values) of further tags, or in place of ours; of type SHORT.
    """
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width, bands = samples.shape
    stored = samples.astype(samples.dtype.newbyteorder(order))
    strips = [stored[..., i] for i in range(bands)] if planes else [stored]
    packed = [_PACKED[compression](strip.tobytes()) for strip in strips]
    starts = [8 + sum(map(len, packed[:i])) for i in range(len(packed))]
    values = {
        256: [width], 257: [height], 258: [8 * samples.itemsize] * bands, 259: [compression],
        262: [2 if bands >= 3 else 1], 273: starts, 277: [bands], 278: [height], 279: list(map(len, packed)),
        284: [2 if planes else 1], 339: [2 if samples.dtype.kind == "i" else 1] * bands, **dict(tags),
    }  # fmt: skip
    place = 8 + sum(map(len, packed))
    place += place % 2
    entries, more = b"", b""
    for number, value in sorted(values.items()):
        body = struct.pack(f"{order}{len(value)}H", *value)
        if len(body) > 4:
            body, more = struct.pack(f"{order}I", place + 6 + 12 * len(values) + len(more)), more + body
        entries += struct.pack(f"{order}HHI", number, 3, len(value)) + body.ljust(4, b"\0")
    directory = struct.pack(f"{order}H", len(values)) + entries + struct.pack(f"{order}I", 0) + more
    head = b"II*\0" if order == "<" else b"MM\0*"
    return (head + struct.pack(f"{order}I", place) + b"".join(packed)).ljust(place, b"\0") + directory


def exif(*entries, order="<"):
    """An EXIF block of entries (tag, type, count, four bytes of value or place)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(f"{order}HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return head + struct.pack(f"{order}IH", 8, len(entries)) + body + struct.pack(f"{order}I", 0)


def turned_by(orientation):
    """An entry of `exif`."""
    return (0x0112, 3, 1, struct.pack("<HH", orientation, 0))


def jpeg_with_exif(jpeg, block, *, marker=b"\xff\xe1"):
    """A JPEG with an EXIF block after its first segment, which gives the resolution."""
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    body = b"Exif\0\0" + block
    return jpeg[:end] + marker + struct.pack(">H", len(body) + 2) + body + jpeg[end:]


def jpeg2000_of_16_bits(data):
    """A JPEG 2000 of 8 bits a component, whose header claims 16."""
    start = data.index(b"\xff\x4f\xff\x51") + 42
    return data[:start] + bytes([15]) + data[start + 1 :]


def samples(largest, shape):
    """Random samples, uint16 [H, W, bands], up to the largest, which the last pixel has in all bands."""
    found = np.random.default_rng(0).integers(0, largest + 1, shape).astype(np.uint16)
    found[-1, -1] = largest
    return found


def files_with(block):
    """The same photograph with an EXIF block, in each format that has one; and its pixels."""
    jpeg = encoded(photo(), "JPEG", dpi=(72, 72))
    pixels = np.asarray(photo())
    yield jpeg_with_exif(jpeg, block), np.asarray(Image.open(io.BytesIO(jpeg)))
    yield png(pixels, (b"eXIf", block)), pixels
    yield png(pixels, after=[(b"eXIf", block)]), pixels
    yield encoded(photo(), "WEBP", exif=b"Exif\0\0" + block, lossless=True), pixels


@functools.cache
def seeds():
    """Small files of every format, with metadata."""
    block = exif(turned_by(6), NEGATIVE, (0x8769, 4, 1, struct.pack("<I", 8)))
    profile = b"\0\0\2\x0cappl\2\0\0\0mntrRGB XYZ " + bytes(100)
    deep = samples(4095, (*SIZE[::-1], 4))
    text = (b"tEXt", b"Comment\0hello"), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6<")
    found = [data for data, _ in files_with(block)]
    found += [encoded(photo(), kind, icc_profile=profile) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
    found += [encoded(photo().convert("P"), kind) for kind in ("GIF", "PNG", "BMP", "TIFF")]
    found += [encoded(photo(), kind) for kind in ("BMP", "PPM", "JPEG2000")]
    found += [encoded(photo(), "JPEG", progressive=True), encoded(photo().convert("CMYK"), "JPEG")]
    more = {"save_all": True, "append_images": [photo().rotate(180)]}
    found += [encoded(photo(), kind, **more) for kind in ("MPO", "PNG", "GIF", "WEBP")]
    found += [png(deep, (b"sBIT", b"\x0c\x0c\x0c\x0c"), *text), png(deep[..., :2], interlaced=True, after=text)]
    found += [tiff(deep[..., :n], compression=c, order=o) for n in (1, 3) for c in (1, 5, 8) for o in "<>"]
    found += [tiff(deep, tags=[(338, [1]), (274, [6]), (281, [4095])], planes=p) for p in (False, True)]
    found += [tiff(deep[..., 0].astype(np.int32)), b"P5 9 7 4095 " + deep[..., 0].astype(">u2").tobytes()]
    return found


def mutated(data, rng):
    """The file with a few bytes or a part of it changed, copied, or cut out."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 200))
        match rng.randrange(6):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                data[place : place + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\1\0\0\0"))
            case 2:
                data[place] ^= 1 << rng.randrange(8)
            case 3:
                del data[place : place + rng.choice((1, 2, 100))]
            case 4:
                other = rng.randrange(len(data))
                data[place:place] = data[other : other + rng.randrange(60)]
            case 5:
                data[place : place + 12] = rng.randbytes(12)
        data = data or bytearray(1)
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        return mended(bytes(data))
    return bytes(data)


def mended(data):
    """A PNG with right sums, so that what is in its chunks is read."""
    parts = [(kind, data[place][8:-4]) for kind, place in png_chunks(data)]
    return data[:8] + b"".join(png_chunk(*part) for part in parts)
