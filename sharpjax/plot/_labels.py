"""Names beside marks, where a legend of as many would have to be searched.

Each label takes the place that is cheapest among those around its mark: near, on nothing else, and
joined to the mark by a line that crosses no other. Labels of lonely marks are placed first, so
that those of a crowd find their way around them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

_SIZE = 7.5  # Points, as all lengths here.
_RADII = (7, 12, 18, 26, 36, 48, 62, 78, 96, 116, 140, 170, 200)
_ANGLES = np.arange(24) * math.pi / 12
_MARK = 4.0  # Half a mark's side.
_GAP = 1.0  # Around a label.


def write(axes: Axes, marks: Sequence[tuple[float, float]], texts: Sequence[str], colours: Any):
    """Writes a label beside each mark, with a line to it where it is not near.

    Args:
        axes: With their limits set: what changes them later moves marks away from their labels.
        marks: Of each label, in data coordinates.
        texts: The labels.
        colours: Of the labels.
    """
    root: Any = axes.get_figure(root=True)
    root.draw_without_rendering()  # The layout, without which nothing has a place.
    to_points = 72 / root.dpi
    at = axes.transData.transform(np.array(marks, float).reshape(-1, 2)) * to_points
    inside = np.array(axes.get_window_extent().extents) * to_points
    sizes = [_extent(text) for text in texts]
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1)
    crowd = np.sum(np.exp(-apart / 20), axis=1)
    boxes = [np.concatenate([p - _MARK, p + _MARK]) for p in at]
    lines: list[np.ndarray] = []
    for i in map(int, np.argsort(crowd, kind="stable")):
        candidates = list(_candidates(at[i], sizes[i]))
        costs = [_cost(at[i], box, end, boxes, lines, inside, i) for box, end in candidates]
        box, end = candidates[int(np.argmin(costs))]
        boxes.append(box)
        lines.append(np.concatenate([at[i], end]))
        far = np.linalg.norm(end - at[i]) > 1.8 * _MARK
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": colours[i], "shrinkA": 0}
        right, up = box[:2] + _GAP - at[i]
        made = axes.annotate(
            texts[i],
            marks[i],
            (float(right), float(up)),
            textcoords="offset points",
            fontsize=_SIZE,
            color=colours[i],
            arrowprops=line | {"shrinkB": _MARK, "relpos": _relative(end, box)} if far else None,
            zorder=6,
        )
        made.set_in_layout(False)


def _extent(text: str) -> np.ndarray:
    """Width and height of a label's box."""
    found = TextPath((0, 0), text, size=_SIZE).get_extents()
    return np.array([found.width, 1.15 * _SIZE]) + 2 * _GAP


def _candidates(mark: np.ndarray, size: np.ndarray):
    """(box, the end of its line) around a mark."""
    for radius in _RADII:
        for angle in _ANGLES:
            end = mark + radius * np.array([math.cos(angle), math.sin(angle)])
            # The box continues the line: its middle is beyond the end by as much as it needs.
            middle = end + size / 2 * np.array([_side(math.cos(angle)), _side(math.sin(angle))])
            yield np.concatenate([middle - size / 2, middle + size / 2]), end


def _side(direction: float) -> float:
    return max(-1.0, min(1.0, 1.6 * direction))


def _relative(end: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    x, y = np.clip((end - box[:2]) / (box[2:] - box[:2]), 0, 1)
    return float(x), float(y)


def _cost(mark, box, end, boxes, lines, inside, own: int) -> float:
    outside = np.maximum(inside[:2] - box[:2], 0).sum() + np.maximum(box[2:] - inside[2:], 0).sum()
    others = np.array(boxes)
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    over = np.prod(np.maximum(sides, 0), axis=1).sum()
    crossed = _enters(mark, end, np.delete(others, own, axis=0))
    if lines:
        starts, ends = np.split(np.array(lines), 2, axis=1)
        crossed += _crosses(mark, end, starts, ends) + _enters(starts, ends, box)
    return float(np.linalg.norm(end - mark) + 1e4 * outside + 10 * over + 60 * crossed)


def _crosses(start: np.ndarray, end: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> int:
    """How many segments one crosses; those that start at one mark do not cross."""
    return int(
        np.sum(
            (_turn(start, end, starts) * _turn(start, end, ends) < 0)
            & (_turn(starts, ends, start) * _turn(starts, ends, end) < 0)
        )
    )


def _turn(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Positive where r lies to the left of the line from p to q."""
    (a, b), (c, d) = np.moveaxis(q - p, -1, 0), np.moveaxis(r - p, -1, 0)
    return a * d - b * c


def _enters(starts: np.ndarray, ends: np.ndarray, boxes: np.ndarray) -> int:
    """How many pairs of a segment and a box meet: one of them, or as many of both."""
    low, high = np.split(boxes, 2, axis=-1)
    way = np.where(ends == starts, 1e-9, ends - starts)
    # The stretch of the segment, from 0 to 1, that lies between a box's sides along each axis.
    sides = np.stack([(low - starts) / way, (high - starts) / way])
    first, last = sides.min(axis=0).max(axis=-1), sides.max(axis=0).min(axis=-1)
    return int(((first < last) & (first < 1) & (last > 0)).sum())
