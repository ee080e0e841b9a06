"""The patterns of `lrr`: what the masks of each class look like in small windows."""

from collections.abc import Iterable

import numpy as np

WINDOW = 32  # pixels, of which 4 x 4 become one of a pattern
_MOST = 500  # windows of a class


def mask_patterns(labels: Iterable[np.ndarray], fallback: np.ndarray) -> np.ndarray:
    """The principal components of windows of the classes' masks (Ghiasi and Fowlkes, ECCV 2016, section 3).

    Windows of 32 x 32 pixels that a class covers in part, each less its mean; the components of their singular value
    decomposition, times the root of the singular values of the windows' covariance, so that their number does not
    count, our choice; their 4 x 4 means. Also our choices: windows do not overlap; of a class the first 500 are taken;
    void is not of the class.

    Args:
      labels: uint8 [B, H, W] each, 255 is void.
      fallback: float32 [8, 8, count, classes]: what a class has in place of components that its windows do not give.

    Returns:
      float32 [8, 8, count, classes].

    Examples:
      >>> import numpy as np
      >>> from gcn_jax.training.patterns import mask_patterns
      >>> label = np.zeros((1, 64, 64), np.uint8)
      >>> label[:, :, 16:48] = 1  # each window is half of class 0 and half of 1
      >>> patterns = mask_patterns([label], np.zeros((8, 8, 2, 2), np.float32))
      >>> patterns[:4, :, 0, 0].round(2)[0], bool(patterns[..., 1, 0].any())
      (array([ 0.5,  0.5,  0.5,  0.5, -0.5, -0.5, -0.5, -0.5], dtype=float32), False)
    """
    count, classes = fallback.shape[2:]
    windows: list[list[np.ndarray]] = [[] for _ in range(classes)]
    for label in labels:
        for name, window in _windows(label):
            if name < classes and len(windows[name]) < _MOST:
                windows[name].append(window == name)
    patterns = fallback.copy()
    for name, own in enumerate(windows):
        if own:
            found = _components(np.array(own).reshape(len(own), -1), count)
            patterns[:, :, : len(found), name] = found.transpose(1, 2, 0)
    return patterns


def _windows(label: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """Each class of each window that holds more than it, and the window."""
    rows, columns = (side // WINDOW for side in label.shape[1:])
    whole = label[:, : rows * WINDOW, : columns * WINDOW]
    tiles = whole.reshape(-1, rows, WINDOW, columns, WINDOW).swapaxes(2, 3).reshape(-1, WINDOW, WINDOW)
    for tile in tiles:
        names = np.unique(tile)
        if len(names) > 1:
            yield from ((int(name), tile) for name in names)


def _components(windows: np.ndarray, count: int) -> np.ndarray:
    """[number, 1024] -> at most count patterns, [count, 8, 8]; signs such that the first pixel's half is positive."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    _, singular, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    kept = min(count, int(np.sum(singular > 1e-6 * singular[0])))
    # The covariance's singular values are squares of the windows'; its root times the axis has the windows' scale.
    components = (singular[:kept] / np.sqrt(len(windows)))[:, None] * axes[:kept]
    components *= np.where(components[:, :1] < 0, -1, 1)
    side = WINDOW // 8
    return components.reshape(-1, 8, side, 8, side).mean((2, 4)).astype(np.float32)
