"""Outlines of the regions of a mask as polygons, exactly along the borders of pixels.

COCO's format has no word for a hole. So that every tool can read a region with holes as one polygon, the polygon goes
to each hole along a line, around it, and back on the same line. Filled by crossings or by turns, it gives the region.
"""

import numpy as np
from scipy import sparse

# The sides of a pixel in the order in which an outline goes around it: top, right, bottom, left. Of each side, as (row,
# column): the corner it starts at, the pixel ahead, and what lies outside.
_CORNER = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
_AHEAD = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
_OUTSIDE = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
_TOP, _LEFT = 0, 3


def trace(regions: np.ndarray) -> list[np.ndarray]:
    """The outline of each region.

    Args:
      regions: int [H, W]; 0 is none, the others are 1, ..., N, each connected by its pixels' sides.

    Returns:
      For each of 1, ..., N the corners of its polygon: int [P, 2], x and y.
    """
    framed, width = np.pad(regions, 1), regions.shape[1]
    pixels, sides = _edges(framed)
    codes = _code(pixels, sides, width)
    following = np.searchsorted(codes, _code(*_next(framed, pixels, sides), width))
    shape = (len(codes), len(codes))
    graph = sparse.coo_array((np.ones(len(codes), bool), (np.arange(len(codes)), following)), shape)
    loops = sparse.csgraph.connected_components(graph, directed=False)[1]
    first = np.unique(regions[pixels[:, 0], pixels[:, 1]], return_index=True)[1]  # of each region, on its outer loop
    holes = np.sort(np.setdiff1d(np.unique(loops, return_index=True)[1], first))  # the edge above each, from the top
    corners, links = (pixels + _CORNER[sides]).tolist(), following.tolist()
    whole = framed[:-1, :-1] == framed[1:, :-1]  # corners whose four pixels are of one region
    whole = whole & (framed[:-1, 1:] == framed[1:, 1:]) & (framed[:-1, :-1] == framed[:-1, 1:])
    for above in holes.tolist():
        row, column = pixels[above]
        top = int(np.flatnonzero(~whole[: row + 1, column])[-1])  # where a line upwards from the hole meets an outline
        is_straight = framed[top, column + 1] != framed[top + 1, column + 1]
        pixel, side = ([top, column], _TOP) if is_straight else ([top - 1, column], _LEFT)
        meets = int(np.searchsorted(codes, _code(np.array(pixel), side, width)))
        corners += [[row + 1, column], [top, column]]  # the way back
        links += [len(links) + 1, links[meets]]
        links[meets], links[above] = links[above], len(links) - 2
    points = np.array(corners, int).reshape(-1, 2)[:, ::-1]
    return [_polygon(points, links, start) for start in first.tolist()]


def _edges(framed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sides of pixels with another region beyond, in order: the pixels, int [E, 2], and their sides, int [E]."""
    inner = framed[1:-1, 1:-1]
    height, width = inner.shape
    is_edge = np.stack(
        [
            (inner != 0) & (framed[1 + row : 1 + row + height, 1 + column : 1 + column + width] != inner)
            for row, column in _OUTSIDE
        ],
        axis=-1,
    )
    rows, columns, sides = np.nonzero(is_edge)
    return np.stack([rows, columns], axis=1), sides


def _next(framed: np.ndarray, pixels: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edge that follows each on its outline. Where two pixels meet at a corner only, it stays at its own."""
    ahead = pixels + _AHEAD[sides]
    beyond = ahead + _OUTSIDE[sides]
    own, other, third = (framed[at[:, 0] + 1, at[:, 1] + 1] for at in (pixels, ahead, beyond))
    turns, goes_on = other != own, third != own
    following = np.where(turns[:, None], pixels, np.where(goes_on[:, None], ahead, beyond))
    return following, np.where(turns, sides + 1, np.where(goes_on, sides, sides - 1)) % 4


def _code(pixels: np.ndarray, sides: np.ndarray | int, width: int) -> np.ndarray:
    return (pixels[..., 0] * width + pixels[..., 1]) * 4 + sides


def _polygon(points: np.ndarray, links: list[int], start: int) -> np.ndarray:
    """The points from one on, by their links, without those on straight lines."""
    places, place = [start], links[start]
    while place != start:
        places.append(place)
        place = links[place]
    found = points[places]
    steps = np.sign(np.roll(found, -1, 0) - found)
    return found[(steps != np.roll(steps, 1, 0)).any(1)]
