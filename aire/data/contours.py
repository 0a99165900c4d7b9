"""Generate images of the Pathfinder challenge (Linsley et al. 2018, arXiv 1805.08315) from a seed.

Two dashed contours start near each other and wind through the image, among shorter distractors. Two dots mark both
ends of one contour, or one end of each. Within a contour, the gap between dashes is at most two margins. All other
dashes are further apart. So the answer is unique, and finding it requires following the contour.
"""

import cmath
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from random import Random

import numpy as np

Dash = tuple[complex, complex]  # both ends in pixels, x + iy; the image is the square from 0 to side
Contour = list[Dash]  # from start to end
Uniform = Callable[[], float]  # random numbers in [0, 1)


@dataclasses.dataclass(frozen=True)
class Design:
    """Parameters of the images. Lengths are in pixels, grey values from 0 to 1.

    Attributes:
        side: side of the square image.
        padding: distance of the dashes from the border.
        contour_length, distractor_length: number of dashes.
        distractors: maximum number. A distractor is dropped if there is no space for it.
        dash_length, dash_width: size of a dash.
        margins: half the gap between dashes of a straight contour. Each image uses one of these values.
        continuity: the density of a turn by angle a is proportional to cos²(continuity · a) up to its first zeros.
        seed_distance: distance between the starts of the contours. The first start is twice this far from the border.
        marker_radius: radius of the dots.
        contour_grey, distractor_grey: brightness of the dashes. Values above 1 compensate for dashes thinner than a
            pixel.
    """

    side: int
    padding: float
    contour_length: int
    distractor_length: int
    distractors: int
    dash_length: float
    dash_width: float
    margins: tuple[float, ...]
    continuity: float
    seed_distance: float
    marker_radius: float
    contour_grey: float
    distractor_grey: float


DESIGNS = {
    # The Long Range Arena's two designs, with the numbers from its lra_benchmarks/data/pathfinder.py.
    "lra32": Design(32, 1, 14, 4, 5, 2, 0.5, (1,), 1.0, 7, 1.5, 1.5, 2.0),
    "lra128": Design(128, 1, 14, 4, 8, 5, 1.5, (2, 3), 1.8, 20, 3, 0.9, 0.9),
    # Shorter contours and fewer pixels, for training on a CPU.
    "small16": Design(16, 0.5, 5, 2, 2, 2, 1.0, (0.7,), 1.0, 3, 1.2, 0.75, 1.0),
    "small32": Design(32, 1, 7, 3, 4, 3, 1.0, (1, 1.5), 1.2, 6, 1.5, 0.9, 0.9),
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """The contents of an image: two contours, distractors and two dots."""

    design: Design
    margin: float
    contours: tuple[Contour, Contour]
    distractors: list[Contour]
    dots: tuple[complex, complex]

    def image(self) -> np.ndarray:
        """Render (side, side) uint8: light, antialiased dashes and dots on black."""
        design, grey = self.design, np.zeros((self.design.side, self.design.side), np.float32)
        dashes = [dash for contour in (*self.contours, *self.distractors) for dash in contour]
        n_contour = sum(map(len, self.contours))
        greys = [design.contour_grey] * n_contour + [design.distractor_grey] * (len(dashes) - n_contour)
        _draw_dashes(grey, np.array(dashes), np.array(greys, np.float32), design.dash_width)
        _draw_dots(grey, np.array(self.dots), design.marker_radius)
        return np.rint(255 * grey).astype(np.uint8)


def draw(design: Design, connected: bool, seed: str) -> Scene:
    """Draw a scene from a seed. The dots are the ends of one contour if `connected`, else one end of each."""
    random = Random(seed).random  # only this method, because Python guarantees that its numbers never change
    margin = design.margins[int(random() * len(design.margins))]
    while (scene := _attempt(design, margin, connected, random)) is None:
        pass
    return scene


# Placing contours ----------------------------------------------------------------------------------------------------

_CELLS = 5  # grid cells per minimum distance between dashes
_TURNS = 6  # attempts before backtracking
_TRIES_PER_DASH = 8
_STARTS = 10  # attempts per contour


def _attempt(design: Design, margin: float, connected: bool, random: Uniform) -> Scene | None:
    """Try once to place all contours; None if a contour reaches a dead end."""
    grid = _OccupancyGrid(design, margin, random)
    inner = 2 * design.seed_distance
    start = complex(*(inner + random() * (design.side - 2 * inner) for _ in "xy"))
    first = grid.grow(start, design.contour_length)
    if first is None:
        return None
    for _ in range(_STARTS):
        second = grid.grow(start + cmath.rect(design.seed_distance, math.tau * random()), design.contour_length)
        if second is not None:
            break
    else:
        return None
    distractors = list(_distractors(grid, design, random))
    contours = (first, second) if random() < 0.5 else (second, first)
    dots = (contours[0][0][0], contours[0 if connected else 1][-1][1])
    return Scene(design, margin, contours, distractors, dots)


def _distractors(grid: "_OccupancyGrid", design: Design, random: Uniform) -> Iterator[Contour]:
    for _ in range(design.distractors):
        for _ in range(_STARTS):
            start = complex(random() * design.side, random() * design.side)
            if (contour := grid.grow(start, design.distractor_length)) is not None:
                yield contour
                break


class _OccupancyGrid:
    """The space for dashes: inside the padding and away from the dashes placed so far."""

    def __init__(self, design: Design, margin: float, random: Uniform):
        self._margin, self._random = margin, random
        self._low, self._high = design.padding, design.side - design.padding
        self._continuity = design.continuity
        # One bit per cell, in a single integer: backtracking then needs no copies.
        self._occupied = 0
        distance = 2 * margin + design.dash_width  # minimum distance between the centre lines of dashes
        self._per_pixel = _CELLS / distance
        border = _CELLS + 1  # for discs around points at the edge of the image
        self._columns = math.ceil(design.side * self._per_pixel) + 2 * border
        self._disc = _disc(self._columns)
        self._first_disc = (border - _CELLS) * (self._columns + 1)  # corner of the disc around the point 0
        self._first_cell = border * (self._columns + 1)
        n = math.ceil(design.dash_length * self._per_pixel / 2)
        self._steps = [design.dash_length * i / n for i in range(n + 1)]  # along a dash, at most two cells each

    def grow(self, start: complex, n: int) -> Contour | None:
        """Place a contour of n dashes that starts at a point; None if this fails."""
        self._tries = _TRIES_PER_DASH * n
        contour: Contour = []
        if self._is_free(self._occupied, [start]):
            occupied = self._extend(contour, n, start, 0.0, self._occupied, [])
            if occupied is not None:
                self._occupied = occupied
                return contour
        return None

    def _extend(
        self, contour: Contour, n: int, pivot: complex, heading: float, occupied: int, previous: list[complex]
    ) -> int | None:
        """Extend a contour to n dashes with backtracking. Return the cells then occupied, or None.

        The contour turns at `pivot`, one margin before the next dash. `occupied` does not include the points of the
        `previous` dash, because only the next dash may come this near to it.
        """
        with_previous = self._mark(occupied, previous)
        if len(contour) == n:
            return with_previous
        for _ in range(_TURNS):
            if not self._tries:
                break
            self._tries -= 1
            turned = heading + self._turn() if contour else math.tau * self._random()
            direction = cmath.rect(1, turned)
            near = pivot + self._margin * direction if contour else pivot
            points = [near + step * direction for step in self._steps]
            if self._is_free(occupied, points):
                contour.append((near, points[-1]))
                next_pivot = points[-1] + self._margin * direction
                extended = self._extend(contour, n, next_pivot, turned, with_previous, points)
                if extended is not None:
                    return extended
                contour.pop()
        return None

    def _turn(self) -> float:
        """Sample an angle with density cos² by rejection."""
        while True:
            angle = (self._random() - 0.5) * math.pi
            if self._random() < math.cos(angle) ** 2:
                return angle / self._continuity

    def _is_free(self, occupied: int, points: list[complex]) -> bool:
        low, high, first = self._low, self._high, self._first_cell
        for p in points:
            if not (low <= p.real <= high and low <= p.imag <= high) or occupied >> self._cell(p) + first & 1:
                return False
        return True

    def _mark(self, occupied: int, points: list[complex]) -> int:
        """Add the discs around points to the occupied cells."""
        for p in points:
            occupied |= self._disc << self._cell(p) + self._first_disc
        return occupied

    def _cell(self, p: complex) -> int:
        return int(p.imag * self._per_pixel) * self._columns + int(p.real * self._per_pixel)


@functools.cache
def _disc(columns: int) -> int:
    """Return the cells within the minimum distance of a point, for a grid with this many columns."""
    axis = range(-_CELLS, _CELLS + 1)
    inside = (
        (row + _CELLS) * columns + column + _CELLS
        for row in axis
        for column in axis
        if math.hypot(row, column) < _CELLS + 0.5
    )
    return sum(1 << cell for cell in inside)


# Rendering -----------------------------------------------------------------------------------------------------------


def _draw_dashes(grey: np.ndarray, dashes: np.ndarray, greys: np.ndarray, width: float) -> None:
    """Lighten grey (side, side) under the dashes (n, 2), in proportion to the covered part of each pixel."""
    start, end = dashes.T
    middle, along = (start + end) / 2, (end - start) / abs(end - start)
    length = abs(end - start).max()
    rows, columns, offset = _patches(middle, (length + width) / 2 + 1, len(grey))
    offset *= along.conj()[:, None, None]
    covered = _strip(offset.real, length) * _strip(offset.imag, width)
    _lighten(grey, rows, columns, covered * greys[:, None, None])


def _draw_dots(grey: np.ndarray, dots: np.ndarray, radius: float) -> None:
    rows, columns, offset = _patches(dots, radius + 1, len(grey))
    _lighten(grey, rows, columns, np.clip(radius + 0.5 - abs(offset), 0, 1))


def _strip(distance: np.ndarray, width: float) -> np.ndarray:
    """Return the covered fraction of a pixel, given its distance from the centre line of a strip."""
    return np.clip(width / 2 + 0.5 - abs(distance), 0, min(width, 1))


def _patches(middles: np.ndarray, reach: float, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows (n, k, 1) and columns (n, 1, k) of the pixels around points (n,), and their offsets (n, k, k)."""
    k = np.arange(-math.ceil(reach), math.ceil(reach) + 1)
    rows = (np.floor(middles.imag).astype(int)[:, None] + k)[:, :, None]
    columns = (np.floor(middles.real).astype(int)[:, None] + k)[:, None, :]
    return rows, columns, columns + 0.5 + 1j * (rows + 0.5) - middles[:, None, None]


def _lighten(grey: np.ndarray, rows: np.ndarray, columns: np.ndarray, by: np.ndarray) -> None:
    """Set pixels to the maximum of old and new values, clipped to 1. Pixels outside the image are dropped."""
    side = len(grey)
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    pixels = np.broadcast_to(rows * side + columns, by.shape)[inside]
    np.maximum.at(grey.reshape(-1), pixels, np.minimum(by[inside], 1).astype(np.float32))
