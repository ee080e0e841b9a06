"""Pictures for a CRF, and the lattice of its filters from its definition."""

import numpy as np
from scipy import ndimage

from gcn_jax import crf

SMALL = crf.Params(10, 2.0, 1.5, 3.0, 6.0, 40.0)


def scene(height, width, classes, seed=0):
    """A picture of some smooth regions with noise, uint8, and logits that know them badly."""
    rng = np.random.default_rng(seed)
    regions = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (4, 4, 0)) * 900 + 128
    image = np.clip(regions + rng.normal(size=regions.shape) * 6, 0, 255).astype(np.uint8)
    return image, rng.normal(size=(height, width, classes)).astype(np.float32) + (image[..., :1] > 128)


def all_features(image, params):
    """Positions and colours over the sigmas, of each kernel: [N, 2], [N, 5]."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].reshape(2, -1)
    position = np.stack([columns, rows], 1)
    color = image.reshape(-1, 3).astype(float)
    return position / params.position_sigma, np.hstack([position / params.sigma_xy, color / params.sigma_rgb])


def permutohedral(features):
    """The matrix that the lattice stands for, from its definition in the papers: dictionaries, a pixel at a time."""
    count, dims = features.shape
    features = features.astype(np.float32)
    scale = (np.sqrt(2 / 3) * (dims + 1) / np.sqrt(np.arange(1, dims + 1) * np.arange(2, dims + 2))).astype(np.float32)
    index, splat = {}, []
    for i, feature in enumerate(features * scale):
        elevated = np.append(np.cumsum(feature[::-1])[::-1], 0) - np.append(0, np.arange(1, dims + 1) * feature)
        elevated = elevated.astype(np.float32)
        # The vertices of the enclosing simplex, by brute force: the nearest point of each remainder.
        for remainder in range(dims + 1):
            q = np.floor((elevated - remainder) / (dims + 1))
            rest = elevated - remainder - (dims + 1) * q  # in 0..d+1: where to round up is the choice
            up = np.argsort(-rest, kind="stable")[: int(-remainder - q.sum())]
            q[up] += 1
            vertex = tuple(((dims + 1) * q + remainder).astype(int))
            splat.append((i, index.setdefault(vertex, len(index)), elevated - vertex))
    matrix = np.zeros((count, len(index)))
    for i in range(count):
        of_pixel = splat[i * (dims + 1) : (i + 1) * (dims + 1)]
        # Barycentric coordinates: the weights that sum to 1 and whose vertices' mean is the pixel.
        system = np.vstack([np.stack([offset for _, _, offset in of_pixel], 1), np.ones(dims + 1)])
        matrix[i, [m for _, m, _ in of_pixel]] = np.linalg.lstsq(system, np.append(np.zeros(dims + 1), 1), rcond=None)[
            0
        ]
    blurred = matrix.T
    for axis in range(dims + 1):
        step = -np.ones(dims + 1, int)
        step[axis] = dims
        mixed = blurred.copy()
        for vertex, m in index.items():
            for neighbor in (tuple(vertex + step), tuple(vertex - step)):
                if neighbor in index:
                    mixed[m] += 0.5 * blurred[index[neighbor]]
        blurred = mixed
    return matrix @ blurred / (1 + 2.0**-dims)
