"""The features of the pyramid's stages alone, and what each of them knows.

    python examples/pyramid_features.py              # random weights
    python examples/pyramid_features.py runs/shapes  # those of `make demo`, or of any model of RGB images

prints each stage's size. Then it takes the largest value of each feature in each of some drawn images and finds from
those, by least squares, which of five shapes an image holds. 10 seconds on 2 CPU cores. Each stage of the trained
network tells more than with random weights; res-2, which sees best what is small, tells most.
"""

import sys

import jax
import numpy as np

import gcn_jax
from gcn_jax.data.shapes import draw
from gcn_jax.models import init_variables
from gcn_jax.models.preprocessing import Preprocessing, normalize

STAGES = ("stem", "res2", "res3", "res4", "res5")
SIZE, NUM_CLASSES = 48, 6
Pairs = tuple[np.ndarray, np.ndarray]


def images_and_shapes(split: str, count: int) -> Pairs:
    """Images, uint8 [N, H, W, 3], and whether each holds each of the five shapes, bool [N, 5]."""
    images, labels = zip(*(draw(split, i) for i in range(count)), strict=True)
    cut = slice(SIZE)
    held = [np.isin(np.arange(1, NUM_CLASSES), label[cut, cut]) for label in labels]
    return np.stack([image[cut, cut] for image in images]), np.stack(held)


def found(known: Pairs, new: np.ndarray) -> np.ndarray:
    """Least squares from features to answers, of the known images, applied to new ones: bool [N, 5]."""
    features, answers = known
    mean, std = features.mean(0), features.std(0) + 1e-6
    known_rows, new_rows = (np.pad((f - mean) / std, ((0, 0), (0, 1)), constant_values=1) for f in (features, new))
    gram = known_rows.T @ known_rows + len(known_rows) / 10 * np.eye(known_rows.shape[1])
    return new_rows @ np.linalg.solve(gram, known_rows.T @ answers) > 0.5


def main(source: str = "", num_known: int = 600, num_new: int = 200) -> dict[str, float]:
    """Prints a table; returns the share of right answers of each stage."""
    if source:
        segmenter = gcn_jax.load(source)
        model, variables, preprocessing = segmenter.model, segmenter.variables, segmenter.preprocessing
    else:
        model = gcn_jax.build_model(backbone="resnet14", width=16, kernel_size=7)
        variables, preprocessing = init_variables(model, seed=0), Preprocessing((120,) * 3, (60,) * 3)

    @jax.jit
    def features(images):
        return model.apply(variables, normalize(images, preprocessing), method="features")

    images, answers = images_and_shapes("train", num_known)
    new_images, new_answers = images_and_shapes("val", num_new)
    of_known, of_new = features(images), features(new_images)
    print(f"guess {np.maximum(new_answers.mean(0), 1 - new_answers.mean(0)).mean():26.0%} right")
    right = {}
    for stage in STAGES:
        known, new = (np.asarray(maps[stage]) for maps in (of_known, of_new))
        is_held = found((known.max((1, 2)), answers), new.max((1, 2)))
        right[stage] = float((is_held == new_answers).mean())
        print(f"{stage:5} {known.shape[1:]!s:20} {right[stage]:5.0%} right")
    return right


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
