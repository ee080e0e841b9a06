"""Labels and class probabilities of images of any size: the one place where a trained model is applied.

Nested from the outside in, as a `Protocol` asks for it:

* an image is one canvas, padded at the bottom and right to one of a few shapes; or, where ``window`` is set or its
  largest view would exceed `WHOLE` pixels, the windows of a grid, whose probabilities are averaged where they overlap
  (an image that is lower or narrower than a window is padded to it in the same way);
* the probabilities of a canvas or window are the mean over its views, see `gcn_jax.inference.views`.

Where the protocol names a CRF, the probabilities of the whole image are then refined by it, see `gcn_jax.crf`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gcn_jax import crf
from gcn_jax.config.settings import Protocol
from gcn_jax.data.specs import VOID
from gcn_jax.data.transforms import pad
from gcn_jax.errors import UserError
from gcn_jax.inference.maps import Maps, cut, measured, measured_of_each, stacked
from gcn_jax.inference.views import Views
from gcn_jax.models import Network
from gcn_jax.models.backbones.resnet import STRIDE
from gcn_jax.models.preprocessing import Preprocessing, PyTree
from gcn_jax.runtime.compilation import platform_jit
from gcn_jax.runtime.mesh import put_share, replicated

# Pixels, our choice: an image is taken whole if no side of it exceeds the one, otherwise in windows of the other.
WHOLE = 2048
WINDOW = 1024

Shape = tuple[int, int]
Grid = tuple[int, np.ndarray, np.ndarray, Shape]  # of windows: side, tops, lefts; rows and columns without padding


class Labeller:
    """Applies a model to images by a protocol; compiles once for each shape of canvas or window.

    Attributes:
      mesh: of devices; None: the default device alone.
      batch_size: images that are labelled at a time.

    Args:
      model: the network.
      preprocessing: of its input.
      protocol: how images are labelled.
      mesh: of devices; None: the default device alone.

    Raises:
      UserError: if the window does not divide over the mesh.
    """

    def __init__(self, model: Network, preprocessing: Preprocessing, protocol: Protocol, mesh: Mesh | None = None):
        self._model, self._preprocessing, self._protocol, self.mesh = model, preprocessing, protocol, mesh
        data, space = (mesh.shape["data"], mesh.shape["space"]) if mesh else (1, 1)
        self._crf = crf.parse(protocol.crf)
        self.batch_size = math.ceil(protocol.batch_size / data) * data
        self._multiple = STRIDE * space
        if space > 1 and protocol.window % self._multiple:
            raise UserError(
                f"config.eval.window={protocol.window} must be a multiple of {self._multiple} on "
                f"config.mesh.space={space} devices"
            )
        self._views = Views(model, preprocessing, protocol, self._divisible)
        self._measured = measured_of_each if protocol.multi_label else measured
        self._maps = platform_jit(self._map_views, model.dtype, mesh, static_argnums=2)
        self._add = platform_jit(self._add_windows, model.dtype, mesh, donate_argnums=1)
        self._take = platform_jit(self._take_rows, model.dtype, mesh, static_argnums=2, donate_argnums=0)

    def canvas(self, height: int, width: int) -> Shape | None:
        """The shape to which an image is padded; None if it is taken in windows.

        The shapes are few, so that images of any sizes compile at most 8 programs. An image that fits into `size`
        squared gets that. Otherwise the long side becomes 512 (if `size` is less), 1024 or 2048, and the short side
        half of that if the image fits, but at least 512.
        """
        size, longest = self._protocol.size, max(height, width)
        most = max(WHOLE / max(1.0, *self._protocol.scales), WINDOW, size)
        if self._protocol.window or longest > most:
            return None
        if longest <= size:
            return self._divisible(size), self._divisible(size)
        side = next((side for side in (512, 1024, WHOLE) if side >= longest), longest)
        half = side // 2 if side > 512 else side
        rows, columns = (self._divisible(half if length <= half else side) for length in (height, width))
        return rows, columns

    def start(
        self,
        variables: dict[str, PyTree],
        images: Sequence[np.ndarray],
        wanted: tuple[str, ...] = ("labels",),
        truths: Sequence[np.ndarray] = (),
    ) -> Callable[[], list[Maps]]:
        """Starts to label images, which the device goes on with while the caller does something else.

        Args:
          variables: of the model, on the mesh.
          images: at most `batch_size` of uint8 [H, W, 3], RGB, or bands, of one canvas; one alone if it is None.
          wanted: which of `Maps` to compute.
          truths: the true labels of each image, uint8 [H, W] or [H, W, C], if the loss is wanted.

        Returns:
          A function that waits for them: the maps of each image, NumPy arrays.

        Raises:
          UserError: if the image is too large for the CRF.
        """
        shape = self.canvas(*images[0].shape[:2])
        needed = ("probabilities",) if self._crf else wanted
        known: list[np.ndarray | None] = [*truths] if truths else [None for _ in images]
        if shape is None:
            assert len(images) == 1
            rows = list(self._windows(variables, images[0], needed, known[0]))

            def found() -> list[Maps]:
                return [stacked([cut(maps, count, images[0].shape[1]) for maps, count in rows])]
        else:
            batch = self._padded(images, shape, self._preprocessing.mean)
            sizes = self._put(self._filled([np.array(image.shape[:2], np.int32) for image in images]))
            truth = self._padded(truths, shape, VOID) if truths else None
            maps = self._maps(variables, batch, needed, truth, sizes)

            def found() -> list[Maps]:
                whole = {name: np.asarray(values) for name, values in maps.items()}
                return [cut({name: whole[name][i] for name in whole}, *x.shape[:2]) for i, x in enumerate(images)]

        if not self._crf:
            return found

        def refined() -> list[Maps]:
            pairs = zip(images, found(), strict=True)
            by_crf = (self._refined(image, maps["probabilities"]) for image, maps in pairs)
            return [measured(np, p, p, wanted, truth) for p, truth in zip(by_crf, known, strict=True)]

        return refined

    def rows(self, variables: dict[str, PyTree], image: np.ndarray, wanted: tuple[str, ...]) -> Iterator[Maps]:
        """The maps of an image, [H, W, channels], in parts from top to bottom: of one row of windows at a time."""
        if self.canvas(*image.shape[:2]) or self._crf:
            yield from self.start(variables, [image], wanted)()
        else:
            for maps, count in self._windows(variables, image, wanted):
                yield cut(maps, count, image.shape[1])

    def probabilities(self, variables: dict[str, PyTree], image: np.ndarray) -> np.ndarray:
        """The probability of each class: uint8 [H, W, 3] RGB, or bands -> float32 [H, W, num_classes]."""
        return self.start(variables, [image], ("probabilities",))()[0]["probabilities"]

    def _refined(self, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities, float32 [H, W, C], of an image by the CRF."""
        try:
            return crf.refine(image, crf.log_probabilities(probabilities), self._crf)
        except ValueError as error:
            raise UserError(f"config.eval.crf={self._protocol.crf}: {error}") from error

    def _padded(self, arrays: Sequence[np.ndarray], shape: Shape, fill: Any) -> jax.Array:
        """A batch on the mesh, padded to a canvas; the first is repeated up to the size that is compiled."""
        return self._put(self._filled([pad(array, *shape, fill) for array in arrays]))

    def _filled(self, arrays: list[np.ndarray]) -> np.ndarray:
        return np.stack(arrays + arrays[:1] * (self.batch_size - len(arrays)))

    def _put(self, batch: np.ndarray) -> jax.Array:
        return put_share(batch, self.mesh) if self.mesh else jnp.asarray(batch)

    def _divisible(self, length: float) -> int:
        return math.ceil(length / self._multiple) * self._multiple

    def _map_views(
        self,
        variables: dict[str, PyTree],
        images: jax.Array,
        wanted: tuple[str, ...],
        truth: jax.Array | None,
        sizes: jax.Array,
    ) -> Maps:
        """uint8 [B, H, W, 3], or bands and, if the loss is wanted, uint8 [B, H, W] -> maps [B, H, W]; sizes [B, 2]."""
        return self._measured(jnp, *self._views.scored(variables, images, sizes), wanted, truth)

    # The windows of an image.

    def _windows(
        self,
        variables: dict[str, PyTree],
        image: np.ndarray,
        wanted: tuple[str, ...],
        truth: np.ndarray | None = None,
    ) -> Iterator[tuple[Maps, int]]:
        """Yields rows of maps from top to bottom, and how many of them are final.

        The rows are wider than the image. Only one row of windows is in memory at a time, as a sum: each window is
        weighted by a tent that falls to its borders, where the network sees least of the surroundings. Rows that the
        next row of windows does not reach are final.
        """
        side = (grid := self.grid(*image.shape[:2]))[0]
        height = image.shape[0]
        image = pad(image, max(image.shape[0], side), max(image.shape[1], side), self._preprocessing.mean)
        columns = math.ceil(image.shape[1] / side) * side  # few widths, so that few programs are compiled
        if truth is not None:
            truth = pad(truth, len(image), columns, VOID)
        yield from self.window_rows(variables, image, grid, (height, columns), wanted, truth)

    def window_rows(
        self, variables: dict[str, PyTree], image: Any, grid: Grid, shape: Shape, wanted: tuple[str, ...], truth: Any
    ) -> Iterator[tuple[Maps, int]]:
        """What `_windows` yields, of rows and columns in a given shape.

        The image is an array, or is read where it is indexed; it is as large as a window or larger.
        """
        (side, tops, lefts, size), (height, columns) = grid, shape
        zeros = np.zeros((side, columns, self._model.num_classes + self._protocol.multi_label), np.float32)
        total = jax.device_put(zeros, replicated(self.mesh) if self.mesh else None)
        sizes = self._put(np.array([size] * self.batch_size, np.int32))
        for top, following in zip(tops, [*tops[1:], height], strict=True):
            for first in range(0, len(lefts), self.batch_size):
                some = lefts[first : first + self.batch_size]
                is_used = np.arange(self.batch_size) < len(some)
                some = np.pad(some, (0, self.batch_size - len(some)))
                batch = np.stack([image[top : top + side, left : left + side] for left in some])
                if not isinstance(image, np.ndarray):  # else windows that wait for the device would fill the memory
                    total.block_until_ready()
                total = self._add(variables, total, self._put(batch), some, is_used, sizes)
            known = None if truth is None else truth[top : top + side]
            maps, total = self._take(total, np.int32(following - top), wanted, known)
            yield maps, following - top

    def grid(self, height: int, width: int) -> Grid:
        """The windows of an image: evenly spaced, at most a stride apart, over all of it."""
        side = self._protocol.window or self._divisible(WINDOW)
        stride = self._protocol.window_stride(side)

        def starts(length: int) -> np.ndarray:
            rest = max(length - side, 0)
            return np.rint(np.linspace(0, rest, math.ceil(rest / stride) + 1)).astype(np.int32)

        return side, starts(height), starts(width), (min(height, side), min(width, side))

    def _add_windows(
        self,
        variables: dict[str, PyTree],
        total: jax.Array,
        images: jax.Array,
        lefts: jax.Array,
        is_used: jax.Array,
        sizes: jax.Array,
    ) -> jax.Array:
        """Adds the weighted probabilities of windows, [B, S, S, 3], to the sum of their row, [S, W, C].

        Those of several classes a pixel do not sum to the weight, so that this is one more channel.
        """
        side = images.shape[1]
        tent = np.minimum(np.arange(side) + 0.5, side - np.arange(side) - 0.5).astype(np.float32) / side
        probabilities = self._views.average(variables, images, sizes)
        if self._protocol.multi_label:
            probabilities = jnp.pad(probabilities, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1)
        weighted = probabilities * (tent[:, None] * tent)[None, :, :, None]
        for i in range(len(images)):
            here = (0, lefts[i], 0)
            before = jax.lax.dynamic_slice(total, here, weighted[i].shape)
            total = jax.lax.dynamic_update_slice(total, before + jnp.where(is_used[i], weighted[i], 0), here)
        return total

    def _take_rows(
        self, total: jax.Array, step: jax.Array, wanted: tuple[str, ...], truth: jax.Array | None
    ) -> tuple[Maps, jax.Array]:
        """The maps of a row of windows, and its share in the sum of the next row, which lies `step` pixels below."""
        if self._protocol.multi_label:
            scores, weight = total[..., :-1], total[..., -1:]
        else:
            scores, weight = total, total.sum(-1, keepdims=True)  # a window's probabilities sum to its weight
        maps = self._measured(jnp, scores, scores / jnp.where(weight > 0, weight, 1), wanted, truth)
        is_reached = jnp.arange(len(total)) < len(total) - step
        return maps, jnp.where(is_reached[:, None, None], jnp.roll(total, -step, axis=0), 0)
