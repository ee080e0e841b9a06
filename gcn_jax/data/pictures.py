"""Pictures that show label maps to people."""

import numpy as np
from PIL import Image, ImageDraw

from gcn_jax.data import lettering
from gcn_jax.data.band_transforms import is_rgb
from gcn_jax.data.legend import NO_CLASS
from gcn_jax.data.specs import VOID, DatasetSpec

MAX_JPEG_SIDE = 65_500  # pixels; libjpeg writes no more
_LEAST_HEIGHT = 192  # pixels; lower pictures are enlarged


def visible(image: np.ndarray) -> np.ndarray:
    """An image as people can see it, uint8 [H, W, 3].

    RGB stays as it is. Of bands that are not three of 8 bits the first three are shown, or the first alone if there are
    fewer; each stretched so that the middle 96 % of its values reach from black to white.
    """
    if is_rgb(image):
        return image
    shown = np.empty((*image.shape[:2], 3), np.uint8)
    for i in range(3):
        band = image[..., i if image.shape[2] >= 3 else 0].astype(np.float32)
        values = band[np.isfinite(band)]
        low, high = np.percentile(values, (2, 98)) if values.size else (0, 0)
        scaled = (np.where(np.isfinite(band), band, low) - low) * (255 / (high - low) if high > low else 1)
        shown[..., i] = np.rint(scaled.clip(0, 255))
    return shown


def one_class(label: np.ndarray) -> np.ndarray:
    """A label to draw: as it is, uint8 [H, W]; or of several classes a pixel, [H, W, C], one of them at each pixel.

    Where classes overlap, they take turns in stripes. Where none is, it is `NO_CLASS`, or void if any class is void.
    """
    if label.ndim == 2:
        return label
    held = label == 1
    rows, columns = np.ogrid[: label.shape[0], : label.shape[1]]
    width = max(2, max(label.shape[:2]) // 64)
    turn = (rows + columns) // width % np.maximum(held.sum(-1), 1)
    shown = np.where((label == VOID).any(-1), VOID, NO_CLASS).astype(np.uint8)
    before = np.zeros(shown.shape, int)
    for class_id in range(label.shape[-1]):
        here = held[..., class_id]
        shown[here & (before == turn)] = class_id
        before += here
    return shown


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Mixes an image, half and half, with the colours of its classes; pixels of class 0 and void stay as they are.

    Args:
      image: [H, W, C], drawn as `visible` draws it.
      label: uint8 [H, W]; or bool [H, W, C], drawn as `one_class` draws it, where pixels of no class stay as they are.
      palette: uint8 [256, 3].

    Returns:
      uint8 [H, W, 3].
    """
    image = visible(image)
    untinted = (0, VOID) if label.ndim == 2 else (NO_CLASS, VOID)
    label = one_class(label)
    is_tinted = ~np.isin(label, untinted)
    blended = (image.astype(np.uint16) + palette[label]) // 2
    return np.where(is_tinted[..., None], blended, image).astype(np.uint8)


def triptych(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """An image, its truth and its prediction side by side, enlarged if they are small.

    Args:
      image: [H, W, C], drawn as `visible` draws it.
      label: uint8 [H, W], the truth. Where it is void, the prediction is drawn as void, too.
      prediction: uint8 [H, W].
      palette: uint8 [256, 3].

    Returns:
      uint8 [H', 3 W', 3].
    """
    prediction = np.where(label == VOID, VOID, prediction)
    picture = np.concatenate([visible(image), palette[label], palette[prediction]], axis=1)
    factor = -(-_LEAST_HEIGHT // len(picture))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def stack(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures one below the other, uint8 [H, W, 3], with white to the right of narrower ones."""
    width = max(picture.shape[1] for picture in pictures)
    widths = [((0, 4), (0, width - picture.shape[1]), (0, 0)) for picture in pictures]
    return np.concatenate([np.pad(p, w, constant_values=255) for p, w in zip(pictures, widths, strict=True)])


def contact_sheet(images: np.ndarray, labels: np.ndarray, names: list[str], spec: DatasetSpec) -> np.ndarray:
    """A sheet of images, with their names; each stands beside a copy that has its mask laid over it.

    Below them is a legend of the classes that occur. Where no font has a name's letters, its number is written.

    Args:
      images: [N, H, W, C], drawn as `visible` draws them.
      labels: uint8 [N, H, W], or [N, H, W, C], drawn as `one_class` draws them.
      names: the N images' names.
      spec: gives the classes' names and colours.

    Returns:
      uint8 [H', W', 3].
    """
    side, gap, line, columns = 256, 12, 22, 3
    palette, labels = spec.palette(), np.stack([one_class(label) for label in labels])
    values = [int(value) for value in np.unique(labels)]
    entries = [{VOID: "void", NO_CLASS: "no class"}.get(value) or spec.class_names[value] for value in values]
    cell_width, cell_height = 2 * side + gap, side + line + gap
    width = columns * (cell_width + gap) + gap
    widest = max(lettering.length(name, f"class {value}") for name, value in zip(entries, values, strict=True))
    entry_width = min(max(150, widest + 22 + gap), (width - gap) // 3)
    per_line = (width - gap) // entry_width
    rows = -(-len(images) // columns)
    legend_top = gap + rows * cell_height
    sheet = Image.new("RGB", (width, legend_top + -(-len(values) // per_line) * line + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, label, name) in enumerate(zip(map(visible, images), labels, names, strict=True)):
        left, top = gap + i % columns * (cell_width + gap), gap + i // columns * cell_height
        lettering.write(draw, (left, top), name, cell_width - gap, f"image {i + 1}", keeps_end=True)
        mask = palette[label].astype(np.uint16)
        blended = np.where(label[..., None] == VOID, mask, (image + mask) // 2).astype(np.uint8)
        for j, picture in enumerate((image, blended)):
            small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
            sheet.paste(small, (left + j * side, top + line))
    for i, (value, name) in enumerate(zip(values, entries, strict=True)):
        left, top = gap + i % per_line * entry_width, legend_top + i // per_line * line
        draw.rectangle((left, top, left + 16, top + 16), tuple(palette[value].tolist()), "black")
        lettering.write(draw, (left + 22, top), name, entry_width - 22 - gap, f"class {value}")
    return np.asarray(sheet)


def save_picture(picture: np.ndarray, path, **options) -> None:
    """Writes a picture, uint8 [H, W, 3], to a file; the options are those of Pillow's `Image.save`."""
    Image.fromarray(picture).save(path, **options)
