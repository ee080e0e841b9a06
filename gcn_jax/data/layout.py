"""Finds images, their masks, lists and the file of classes in a folder, in the forms that people and tools make."""

import itertools
import os
import pathlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from gcn_jax.data.builders.archives import Folder, is_junk
from gcn_jax.data.class_files import FILE_NAMES
from gcn_jax.data.image_files import IMAGE_SUFFIXES
from gcn_jax.data.texts import printable, read_lines
from gcn_jax.errors import UserError

# Folders of images, and those of their masks; of several the first counts.
IMAGES = ("images", "JPEGImages", "img")
MASKS = ("masks", "SegmentationClassPNG", "SegmentationClass", "masks_machine", "annotations")
# What a mask's name may have after its image's, the same in the whole folder.
ENDINGS = ("", "_mask", "_label", "_labelIds", "_masks", "_labels", "_seg", "_gt", "_L")
# Names of folders that are splits. Those of a test split are left alone.
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": ""}
# Two paths in a line of a list: of an image and of its mask.
_COLUMNS = re.compile(r"(.+\.\w{3,4}) *[ ,;\t] *(\S.*\.\w{3,4})")
_LISTS = ("{}.txt", "ImageSets/Segmentation/{}.txt")


@dataclass(frozen=True)
class Layout:
    """What lies where.

    Attributes:
      pairs: the paths of each image and its mask, relative to the root, by the image's name.
      class_file: the list of classes; None if there is none.
      by_folder: for each split the names of the images in folders named so; empty if there are no such folders.
      class_of: the class of each mask by its path, where each class has masks of its own.
    """

    pairs: dict[str, tuple[str, ...]]
    class_file: pathlib.Path | None
    by_folder: dict[str, list[str]]
    class_of: dict[str, str]


def find(root: pathlib.Path, suffixes: Collection[str] = IMAGE_SUFFIXES, multi_label: bool = False) -> Layout:
    """Looks into a folder.

    Args:
      root: the folder.
      suffixes: of images; masks have those of photographs.
      multi_label: whether each class has masks of its own, in a folder of its name in that of the masks. An image then
        has the masks of those classes that it holds; none, if it holds none.

    Raises:
      UserError: naming the folder if it holds no images and masks, or the first image or mask that has no other half.
    """
    if not root.is_dir():
        raise UserError(f"config.data_dir={root}: no such folder")
    bases = {"": folders} if (folders := _folders(root, suffixes)) else _folders_below(root, suffixes)
    if not bases:
        missing = "masks/" if any((root / name).is_dir() for name in IMAGES) else "images/"
        raise UserError(
            f"config.data_dir={root}: holds no folder {missing}; known: images/ and masks/, train/images/ and "
            f"train/masks/, or images NAME.jpg with masks NAME_mask.png beside them; COCO's format: configs/coco.py"
        )
    pairs: dict[str, tuple[str, ...]] = {}
    class_of: dict[str, str] = {}
    for base, folders in bases.items():
        if multi_label:
            pairs.update(_images_and_classes(root, base, *folders, suffixes, class_of))
        else:
            pairs.update(_pairs(root, base, *folders, suffixes))
    class_files = [
        path for base in dict.fromkeys(("", *bases)) for name in FILE_NAMES if (path := root / base / name).is_file()
    ]
    for path in class_files:
        if path.name == class_files[0].name and path.read_bytes() != class_files[0].read_bytes():
            raise UserError(f"{path}: differs from {class_files[0]}; both must list the same classes")
    by_folder = _by_folder(pairs)
    used = sorted(itertools.chain(*by_folder.values()) if by_folder else pairs)
    return Layout({name: pairs[name] for name in used}, class_files[0] if class_files else None, by_folder, class_of)


def _folders(base: pathlib.Path, suffixes: Collection[str]) -> tuple[str, str] | None:
    """The folders of images and of masks in a folder; "" for both if masks lie beside images; None if neither."""
    images = next((name for name in IMAGES if (base / name).is_dir()), "")
    masks = next((name for name in MASKS if _holds_images(base / name)), "")
    if images and masks:
        return images, masks
    stems = {path.stem for path in base.iterdir() if path.suffix.lower() in suffixes}
    return ("", "") if any(stem + ending in stems for stem in stems for ending in ENDINGS[1:]) else None


def _holds_images(folder: pathlib.Path) -> bool:
    """Whether it is a folder of images; one of annotations in COCO's format is not."""
    return folder.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*"))


def _folders_below(root: pathlib.Path, suffixes: Collection[str]) -> dict[str, tuple[str, str]]:
    tops = sorted(path for path in root.iterdir() if path.is_dir() and not is_junk(path.name))
    return {top.name: folders for top in tops if (folders := _folders(top, suffixes))}


def _images_and_classes(
    root: pathlib.Path, base: str, images_in: str, masks_in: str, suffixes: Collection[str], class_of: dict[str, str]
) -> dict[str, tuple[str, ...]]:
    """The paths of each image and of its masks, one for each class that it holds; notes the masks' classes."""
    images, masks = _by_name(root, base, images_in, suffixes), _by_name(root, base, masks_in, IMAGE_SUFFIXES)
    parts = {path: _class_and_image(name, images) for name, path in masks.items()}
    for path, (folder, _) in parts.items():
        if not folder or not masks_in:
            raise UserError(
                f"{root / path}: is in no folder of a class; expected {masks_in or 'masks'}/CLASS/NAME.png for "
                f"{images_in or 'images'}/NAME.jpg (one mask of class ids: --config.data.multi_label=False)"
            )
    endings = (e for e in ENDINGS if all(_is_mask_of(name, e, images) for _, name in parts.values()))
    ending = next(endings, "")
    found = {name: [path] for name, path in images.items()}
    for path, (folder, name) in sorted(parts.items()):
        if (image := name.removesuffix(ending)) not in found:
            expected = pathlib.PurePosixPath(images_in, f"{image}.jpg")
            raise UserError(f"{root / path}: has no image; expected {expected} or the like")
        found[image].append(path)
        class_of[path] = folder
    return {f"{base}/{name}" if base else name: tuple(paths) for name, paths in found.items()}


def _class_and_image(name: str, images: dict[str, str]) -> tuple[str, str]:
    """The class, "" for none, and the image of a mask CLASS/NAME; or train/CLASS/NAME, of the image train/NAME."""
    folder, slash, image = name.partition("/")
    own, _, rest = image.partition("/")
    for found in ((folder, image), (own, f"{folder}/{rest}")):
        if any(_is_mask_of(found[1], ending, images) for ending in ENDINGS):
            return found
    return (folder, image) if slash else ("", name)


def _pairs(
    root: pathlib.Path, base: str, images_in: str, masks_in: str, suffixes: Collection[str]
) -> dict[str, tuple[str, ...]]:
    images, masks = _by_name(root, base, images_in, suffixes), _by_name(root, base, masks_in, IMAGE_SUFFIXES)
    if not images_in:
        masks = {name: path for name, path in masks.items() if any(_is_mask_of(name, e, images) for e in ENDINGS[1:])}
        images = {name: path for name, path in images.items() if name not in masks}
    if not images:
        way = "; .npy is read with config.data.channels=1, 2, ..." if suffixes == IMAGE_SUFFIXES else ""
        raise UserError(f"{root / base / images_in}: holds no image ({', '.join(suffixes)}){way}")
    endings = (ending for ending in ENDINGS if masks and all(_is_mask_of(name, ending, images) for name in masks))
    ending = next(endings, "")
    masks = {name.removesuffix(ending): path for name, path in masks.items()}
    for name in sorted(images.keys() ^ masks.keys()):
        if name in images:
            expected = pathlib.PurePosixPath(masks_in, f"{name}{ending}.png")
            own = next((path for other, path in masks.items() if masks_in and other.endswith(f"/{name}")), None)
            advice = f"; if {own} is its mask of one class: --config=configs/folder.py:multi_label" if own else ""
            raise UserError(f"{root / images[name]}: has no mask; expected {expected}{advice}")
        expected = pathlib.PurePosixPath(images_in, f"{name}.jpg")
        raise UserError(f"{root / masks[name]}: has no image; expected {expected} or the like")
    return {f"{base}/{name}" if base else name: (images[name], masks[name]) for name in images}


def _is_mask_of(name: str, ending: str, images: dict[str, str]) -> bool:
    return name.endswith(ending) and name.removesuffix(ending) in images


def _by_name(root: pathlib.Path, base: str, folder: str, suffixes: Collection[str]) -> dict[str, str]:
    """The paths of images, relative to the root, by their names; of a base itself without the folders below it."""
    top = pathlib.PurePosixPath(base, folder)
    found: dict[str, str] = {}
    for path in map(pathlib.PurePosixPath, Folder(root).names("" if str(top) == "." else str(top))):
        if path.suffix.lower() in suffixes and (folder or path.parent == top):
            name = printable(path.relative_to(top).with_suffix("").as_posix())
            if name in found:
                raise UserError(f"{root / path}: {found[name]} has the same name; rename or remove one")
            found[name] = str(path)
    return found


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """The names in each split, if all lie in folders named as splits; a split without images is left out."""
    split_of = {name: SPLITS.get(name.partition("/")[0].lower()) if "/" in name else None for name in names}
    if None in split_of.values():
        return {}
    splits = {split: sorted(name for name, found in split_of.items() if found == split) for split in ("train", "val")}
    return {split: some for split, some in splits.items() if some}


def listed(root: pathlib.Path, split: str, pairs: dict[str, tuple[str, ...]]) -> list[str] | None:
    """The names in the list of a split; None if there is no list.

    A line is a name, or the path of an image (relative to any folder above it, or absolute), and may have that of its
    mask beside it.

    Raises:
      UserError: naming the line that names no image, or another image's mask.
    """
    path = next((root / form.format(split) for form in _LISTS if (root / form.format(split)).is_file()), None)
    if not path:
        return None
    known = {name: name for name in pairs} | {printable(image): name for name, (image, *_) in pairs.items()}
    known |= {os.path.splitext(text)[0]: name for text, name in known.items() if text not in pairs}
    names = []
    for number, line in enumerate(read_lines(path.read_bytes(), str(path), are_names=True), 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        columns = _COLUMNS.fullmatch(line)
        image, mask = columns.groups() if columns else (line, None)
        name = _resolve(image, known)
        if name and mask and not _stem(mask).startswith(_stem(image)):
            raise UserError(f"{where}: {mask!r} is not the mask of {image!r}, whose name it lacks")
        if name is None:
            folder = common(image for image, *_ in pairs.values())
            raise UserError(f"{where}: {line!r} has no file in {root / folder}")
        names.append(name)
    if not names:
        raise UserError(f"{path}: is empty")
    return list(dict.fromkeys(names))


def common(paths: Iterable[str]) -> str:
    """The folder that all files lie in."""
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def _stem(path: str) -> str:
    return os.path.splitext(path.replace("\\", "/").rsplit("/", 1)[-1])[0]


def _resolve(text: str, known: dict[str, str]) -> str | None:
    """What a path names: the longest end of it that is known, with its file's ending or without."""
    for form in dict.fromkeys((text, text.replace("\\", "/"))):  # a backslash may stand for a byte, see `printable`
        parts = [part for part in form.split("/") if part not in ("", ".")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            for candidate in (end, os.path.splitext(end)[0]):
                if candidate in known:
                    return known[candidate]
    return None
