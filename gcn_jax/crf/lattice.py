"""Gaussian filtering in several dimensions on a permutohedral lattice (Adams, Baek and Davis, Eurographics 2010).

A pixel's d features are a point in space, which lies in one simplex of a lattice. The pixel's value is spread over the
d + 1 vertices of that simplex (splat), each lattice point is mixed with its neighbours along d + 1 axes (blur), and the
pixel reads its new value from its vertices (slice). This takes time linear in the number of pixels; a Gaussian between
all pairs of pixels would take quadratic time.

The numbers agree with Krähenbühl and Koltun's code (2011), since the conventions are the same: the scale of the
lattice, the order of the axes, the weights 1/2, 1, 1/2 of the blur, no value for lattice points that no pixel touches,
and the factor 1 / (1 + 2^-d). Only the way to find lattice points differs: that code has a hash table, we sort, so that
all shapes follow from the number of pixels.

A lattice point has d + 1 integer coordinates that sum to 0 and all have the same remainder modulo d + 1. A simplex has
one vertex of each remainder 0..d.
"""

import functools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcn_jax.models.ops.xla import select


class Points(NamedTuple):
    """The vertices of all pixels, sorted by lattice point: for N pixels of d features (d + 1) N entries.

    An entry is one vertex of one pixel. Row r holds the vertices of remainder r, sorted by their keys.

    Attributes:
      pixel: int32 [d + 1, N], the pixel of each entry.
      point: int32 [d + 1, N], the lattice point of each entry, numbered 0, 1, 2, ... from row to row.
      key: uint32 [2, d + 1, N], a number of 64 bits, as its high and low half, that is the same for two entries of a
        row if they are of the same lattice point.
      stride: uint32 [2, d], how much each coordinate counts in a key, as high and low half.
      weight: float32 [d + 1, N], the share of pixel n's value that goes to its vertex of remainder r; 0 for pixels that
        do not count.
      size: int32, the number of lattice points.
      fits: bool, whether a key and a pixel's number fit into 64 bits together; if not, all else is wrong.
    """

    pixel: jax.Array
    point: jax.Array
    key: jax.Array
    stride: jax.Array
    weight: jax.Array
    size: jax.Array
    fits: jax.Array


class Lattice(NamedTuple):
    """What a filter needs, built once for an image of N pixels. M is the capacity; point M is no point: its value is 0.

    To sum up what pixels give to lattice points, the pixels that touch a point are listed in one or more blocks of B.

    Attributes:
      vertex: int32 [d + 1, N], the lattice points of each pixel.
      weight: float32 [d + 1, N], barycentric coordinates of each pixel; 0 for pixels that do not count.
      neighbors: int32 [d + 1, 2, M + 1], the two neighbours of each point along each axis.
      block_pixel: int32 [K, B], the pixels in each block.
      block_weight: float32 [K, B], the share of its value that each of them gives; 0 where a block is not full.
      block_point: int32 [K], the lattice point of each block; ascending.
    """

    vertex: jax.Array
    weight: jax.Array
    neighbors: jax.Array
    block_pixel: jax.Array
    block_weight: jax.Array
    block_point: jax.Array


def locate(features: jax.Array, is_valid: jax.Array) -> Points:
    """Finds the simplex of each pixel and sorts the vertices of all simplices by lattice point.

    Args:
      features: float32 [d, N], each feature divided by its standard deviation.
      is_valid: bool [N], which pixels count; the others touch no lattice point.
    """
    base, rank, weight = _simplex(features)
    (dims, count), bits = features.shape, max(1, features.shape[1].bit_length())
    with jax.enable_x64(True):  # a key and its pixel are sorted as one integer: several times faster than as a pair
        # A vertex of remainder r has the coordinates (d + 1) q + r, where each number of q is that of `base` or one
        # less. The digits of its key are the numbers of q except the last, which follows from the others. Each digit
        # has room for those of the neighbours on both sides.
        low = jnp.where(is_valid[None], base[:dims], np.iinfo(np.int32).max // 2).min(1, keepdims=True)
        high = jnp.where(is_valid[None], base[:dims], np.iinfo(np.int32).min // 2).max(1, keepdims=True)
        extent = (jnp.maximum(high - low, 0) + 4)[:, 0]
        fits = jnp.log2(extent.astype(jnp.float64)).sum() < 64 - bits
        extent = extent.astype(jnp.uint64)
        stride = jnp.cumprod(jnp.append(extent[1:], jnp.uint64(1))[::-1])[::-1]
        digits = jnp.where(is_valid[None], base[:dims] - low + 2, 0).astype(jnp.uint64)
        pixel = jnp.arange(count, dtype=jnp.uint64)
        last = jnp.uint64((1 << bits) - 1)  # no pixel has this number
        ordered = []
        for remainder in range(dims + 1):
            steps = (rank[:dims] > dims - remainder).astype(jnp.uint64)
            key = ((digits - steps) * stride[:, None]).sum(0)
            ordered.append(lax.sort(jnp.where(is_valid, key << bits | pixel, ~last | pixel), is_stable=False))
        entries = jnp.stack(ordered)
        keys, pixel = entries >> bits, (entries & last).astype(jnp.int32)
        counts = jnp.arange(count)[None] < is_valid.sum()  # in each row, pixels that do not count come last
        is_first = jnp.concatenate([jnp.ones((dims + 1, 1), bool), keys[:, 1:] != keys[:, :-1]], axis=1) & counts
        point = jnp.cumsum(is_first.astype(jnp.int32), dtype=jnp.int32).reshape(is_first.shape) - 1
        size = point[-1, -1] + 1
        point = jnp.where(counts, point, (dims + 1) * count)
        return Points(pixel, point, _halves(keys), _halves(stride), jnp.where(is_valid[None], weight, 0), size, fits)


def _halves(values: jax.Array) -> jax.Array:
    """Splits uint64 [...] into its high and low half, uint32 [2, ...], which exist without 64-bit mode."""
    return jnp.stack([values >> 32, values & jnp.uint64(0xFFFFFFFF)]).astype(jnp.uint32)


def _whole(halves: jax.Array) -> jax.Array:
    """Joins uint32 [2, ...] to uint64 [...]: the inverse of `_halves`."""
    return halves[0].astype(jnp.uint64) << 32 | halves[1].astype(jnp.uint64)


def _simplex(features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The simplex around each pixel.

    Args:
      features: float32 [d, N], each feature divided by its standard deviation.

    Returns:
      base: int32 [d + 1, N], the coordinates of the simplex's vertex of remainder 0, divided by d + 1.
      rank: int32 [d + 1, N], the rank of each coordinate by the pixel's distance from that vertex; 0: the greatest.
      weight: float32 [d + 1, N], the pixel's barycentric coordinate for the vertex of each remainder.
    """
    dims = len(features)
    axis = np.arange(1, dims + 1, dtype=np.float32)
    # The standard deviation of splat, blur and slice together is 1 (page 6 of the paper).
    scale = (math.sqrt(2 / 3) * (dims + 1) / np.sqrt(axis * (axis + 1))).astype(np.float32)
    scaled = features * scale[:, None]
    elevated, total = [], jnp.zeros_like(scaled[0])
    for j in range(dims, 0, -1):  # projects onto the hyperplane of coordinates that sum to 0 (page 5)
        elevated.append(total - j * scaled[j - 1])
        total = total + scaled[j - 1]
    coordinates = jnp.stack([total, *elevated[::-1]])
    nearest = jnp.rint(coordinates / (dims + 1))
    rest = coordinates - (dims + 1) * nearest
    base = nearest.astype(jnp.int32)
    index = np.arange(dims + 1)
    comes_first = (index[None, :] < index[:, None])[..., None]  # of two coordinates that are equally far
    is_ahead = (rest[None] > rest[:, None]) | ((rest[None] == rest[:, None]) & comes_first)
    off_plane = base.sum(0, keepdims=True)  # rounding has left the hyperplane by this much
    rank = is_ahead.sum(1, dtype=jnp.int32) + off_plane
    back = (rank < 0).astype(jnp.int32) - (rank > dims).astype(jnp.int32)
    rank, base = rank + (dims + 1) * back, base + back
    rest = rest / (dims + 1) - back
    ascending = jnp.where(rank[None] == dims - index[:, None, None], rest[None], 0).sum(1)
    weight = ascending - jnp.roll(ascending, 1, axis=0) + (index == 0)[:, None]
    return base, rank, weight


def connect(points: Points, capacity: int) -> Lattice:
    """Joins lattice points with their neighbours and with the pixels that touch them.

    Args:
      points: from `locate`.
      capacity: room for lattice points, ``points.size`` or more; (d + 1) N is always enough. The time and memory of a
        filter grow with it. If it is too small, or ``points.fits`` is false, all weights are NaN, and so are all
        filtered values.
    """
    rows, count = points.pixel.shape
    none, nowhere = capacity, rows * count
    entry = jnp.arange(nowhere, dtype=jnp.int32)
    pixel, point = points.pixel.reshape(-1), points.point.reshape(-1)
    is_right = points.fits & (points.size <= capacity)
    weight = jnp.where(is_right, points.weight, jnp.nan)

    row = jnp.arange(rows)[:, None]
    vertex = jnp.full((rows, count), none, jnp.int32)
    vertex = vertex.at[row, points.pixel].set(jnp.minimum(points.point, none), unique_indices=True)
    # `start` is the first entry of each point. Where there is no point, it is beyond all entries.
    is_first = jnp.concatenate([jnp.ones((rows, 1), bool), points.point[:, 1:] != points.point[:, :-1]], axis=1)
    is_point = is_first.reshape(-1) & (point < nowhere)
    start = jnp.full(capacity, nowhere, jnp.int32)
    start = start.at[jnp.where(is_point, point, nowhere)].set(entry, mode="drop", unique_indices=True)
    sizes = jnp.zeros(capacity, jnp.int32).at[point].add(1, mode="drop", indices_are_sorted=True)

    side = 8 if 8 * capacity <= nowhere else 4  # large blocks are faster, but more of their places stay empty
    blocks = (sizes + side - 1) // side
    block_start = jnp.cumsum(blocks, dtype=jnp.int32) - blocks
    length = nowhere // side + capacity
    at = jnp.minimum(point, capacity - 1)
    slot = jnp.where(point < capacity, block_start[at] * side + entry - start[at], length * side)

    def in_blocks(values: jax.Array) -> jax.Array:
        empty = jnp.zeros(length * side, values.dtype)
        return empty.at[slot].set(values.reshape(-1), mode="drop", unique_indices=True).reshape(length, side)

    block_pixel, block_weight = map(in_blocks, (pixel, jnp.take_along_axis(weight, points.pixel, axis=1)))
    block_point = jnp.full(length, none, jnp.int32).at[slot // side].set(point, mode="drop")
    return Lattice(vertex, weight, _neighbors(points, start), block_pixel, block_weight, block_point)


def _neighbors(points: Points, start: jax.Array) -> jax.Array:
    """`Lattice.neighbors`, int32 [d + 1, 2, M + 1], from the first entry of each point, int32 [M]."""
    (rows, count), capacity = points.pixel.shape, len(start)
    entry = jnp.minimum(start, rows * count - 1)
    remainder = entry // count
    row_size = jnp.zeros(rows, jnp.int32).at[remainder].add((start < rows * count).astype(jnp.int32))
    row_end = jnp.cumsum(row_size, dtype=jnp.int32)
    with jax.enable_x64(True):
        key, stride = _whole(points.key).reshape(-1)[entry], _whole(points.stride)
        # One step along an axis adds d to that axis's coordinate and takes 1 from each other. For remainder 0 the
        # remainder becomes d and all numbers of q fall by 1; otherwise the remainder falls by 1 and q stays. Then, in
        # both cases, the axis's number of q rises by 1.
        base = jnp.where(remainder > 0, key, key - stride.sum())
        wanted = base[None] + jnp.append(stride, jnp.uint64(0))[:, None]
        target = jnp.where(remainder > 0, remainder - 1, rows - 1)
        end = jnp.broadcast_to(row_end[target], wanted.shape)

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            is_below = key.at[middle].get(mode="clip") < wanted
            is_open = low < high
            return jnp.where(is_open & is_below, middle + 1, low), jnp.where(is_open & ~is_below, middle, high)

        first = jnp.broadcast_to((row_end - row_size)[target], wanted.shape)
        low, _ = lax.fori_loop(0, min(count, capacity).bit_length(), halve, (first, end))
        is_found = (low < end) & (key.at[low].get(mode="clip") == wanted) & (start < rows * count)[None]
    step = jnp.where(is_found, low, capacity).astype(jnp.int32)
    axis, point = jnp.arange(rows)[:, None], jnp.arange(capacity, dtype=jnp.int32)
    reverse = jnp.full((rows, capacity + 1), capacity, jnp.int32)
    own = jnp.broadcast_to(point, step.shape)
    reverse = reverse.at[axis, jnp.where(is_found, low, capacity + 1)].set(own, mode="drop", unique_indices=True)
    step = jnp.concatenate([step, jnp.full((rows, 1), capacity, jnp.int32)], axis=1)
    return jnp.stack([step, reverse], axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def filter_values(lattice: Lattice, values: jax.Array, reverse: bool = False) -> jax.Array:
    """Filters the pixels' values with a Gaussian of standard deviation 1 between their features, not normalised.

    It is differentiable with respect to the values, but not to the lattice.

    Args:
      lattice: from `connect`.
      values: float32 [N, C].
      reverse: blur along the axes from last to first, which is the transpose of the filter. The two differ only where
        lattice points lack neighbours.

    Returns:
      float32 [N, C].
    """
    rows, none = len(lattice.weight), lattice.neighbors.shape[-1] - 1
    sums = _weighted_rows(values, lattice.block_pixel.T, lattice.block_weight.T)
    at_points = jnp.zeros((none + 1, values.shape[1]), values.dtype)
    at_points = at_points.at[lattice.block_point].add(sums, mode="promise_in_bounds", indices_are_sorted=True)

    forms = {"one_cpu": _blur_in_loop, "gpu": _blur_in_turn, "elsewhere": _blur_in_loop}
    at_points = select(at_points, lattice.neighbors, **forms, reverse=reverse)
    return _weighted_rows(at_points, lattice.vertex, lattice.weight / (1 + 2.0 ** (1 - rows)))


def _blur_in_loop(at_points: jax.Array, neighbors: jax.Array, reverse: bool) -> jax.Array:
    """Blurs values [M + 1, C] along one axis after the other."""
    rows = len(neighbors)
    return lax.fori_loop(0, rows, lambda i, x: _blur(x, neighbors[rows - 1 - i if reverse else i]), at_points)


def _blur_in_turn(at_points: jax.Array, neighbors: jax.Array, reverse: bool) -> jax.Array:
    """The same: a GPU would copy all values at the end of each turn of a loop. A CPU takes longer so."""
    for i in reversed(range(len(neighbors))) if reverse else range(len(neighbors)):
        at_points = lax.optimization_barrier(_blur(at_points, neighbors[i]))
    return at_points


def _blur(at_points: jax.Array, neighbors: jax.Array) -> jax.Array:
    one, other = neighbors
    return at_points + 0.5 * (_rows(at_points, one) + _rows(at_points, other))


def _weighted_rows(values: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
    """Sums of K weighted rows: [M, C], int32 [K, N], float32 [K, N] -> [N, C]. XLA joins the K gathers in one loop."""
    return functools.reduce(operator.add, (w[:, None] * _rows(values, i) for i, w in zip(index, weight, strict=True)))


def _rows(values: jax.Array, index: jax.Array) -> jax.Array:
    return values.at[index].get(mode="promise_in_bounds")


def _filter_forward(lattice: Lattice, values: jax.Array, reverse: bool) -> tuple[jax.Array, Lattice]:
    return filter_values(lattice, values, reverse), lattice


def _filter_backward(reverse: bool, lattice: Lattice, cotangent: jax.Array) -> tuple[None, jax.Array]:
    return None, filter_values(lattice, cotangent, not reverse)


filter_values.defvjp(_filter_forward, _filter_backward)
