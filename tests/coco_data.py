"""Small folders in COCO's format, as tests make them: a cat and, on top of it, a smaller dog in each photograph."""

import json

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
CATEGORIES = ({"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""})


def box(left, top, right, bottom):
    """A polygon that covers these pixels, right and bottom excluded."""
    return [left, top, right, top, right, bottom, left, bottom]


def boxes(number):
    """Where the cat and the dog of a photograph are."""
    left = number % 8
    return box(left, 2, left + 14, 20), box(left + 4, 6, left + 9, 11)


def label(number, cat=1, dog=2):
    """The truth: background 0, the cat, the dog."""
    left = number % 8
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[2:20, left : left + 14] = cat
    label[6:11, left + 4 : left + 9] = dog
    return label


def photograph(number):
    """An image that tells its number; a JPEG of it is near it."""
    return np.broadcast_to(np.uint8([8 * number, 200 - 8 * number, 90]), (HEIGHT, WIDTH, 3))


def save_photograph(path, number, exif=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(number)).save(path, **({"exif": exif} if exif else {}))


def content(file_names, categories=CATEGORIES, first_id=1):
    """What a file of annotations holds; file_names: the numbers of photographs -> their names there."""
    images, annotations = [], []
    for image_id, (number, file_name) in enumerate(file_names.items(), first_id):
        images.append({"id": image_id, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
        for category, outline in zip(categories, boxes(number), strict=False):
            annotation = {"id": len(annotations) + first_id, "image_id": image_id, "category_id": category["id"]}
            annotations.append(annotation | {"segmentation": [outline], "area": 0, "bbox": [], "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": list(categories)}


def write(path, what):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(what))


def make(root, annotations, images):
    """Writes a folder.

    Args:
      root: the folder.
      annotations: paths of files -> the numbers of photographs in each, and the form of their names, "{}.jpg".
      images: the paths' forms of the photographs that a file lists, in the order of the files.
    """
    for (path, (numbers, form)), place in zip(annotations.items(), images, strict=True):
        write(root / path, content({number: form.format(number) for number in numbers}))
        for number in numbers:
            save_photograph(root / place.format(number), number)
