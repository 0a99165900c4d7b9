"""Pictures of the Pathfinder challenge (Linsley et al. 2018, arXiv 1805.08315), drawn from a seed.

Two dashed contours begin near each other and wind through the picture, among shorter ones that distract. Two dots are
marked: both ends of one contour, or an end of each. Dashes of one contour follow each other at gaps of at most two
margins; all others keep further apart, so that there is one right answer, and only following the contour gives it.
"""

import cmath
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from random import Random

import numpy as np

Dash = tuple[complex, complex]  # its two ends in pixels, x + iy; the picture is the square from 0 to side
Contour = list[Dash]  # from its beginning to its end
Draw = Callable[[], float]  # uniform in [0, 1)


@dataclasses.dataclass(frozen=True)
class Design:
    """What the pictures look like. Lengths are in pixels, greys from 0 to 1.

    Attributes:
        side: of the square picture.
        padding: dashes keep this far from the border.
        contour_length, distractor_length: number of dashes.
        distractors: how many, at most: one that finds no room is left out.
        dash_length, dash_width: of a dash.
        margins: a picture takes one of them; half the gap between the dashes of a straight contour.
        continuity: a turn by the angle a is as likely as cos²(continuity · a), within the first zeros.
        seed_distance: between the beginnings of the two contours, the first of which keeps twice this from the border.
        marker_radius: of the dots.
        contour_grey, distractor_grey: of the dashes; above 1 it makes up for dashes thinner than a pixel.
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
    # The two of the Long Range Arena, with the numbers that its lra_benchmarks/data/pathfinder.py states.
    "lra32": Design(32, 1, 14, 4, 5, 2, 0.5, (1,), 1.0, 7, 1.5, 1.5, 2.0),
    "lra128": Design(128, 1, 14, 4, 8, 5, 1.5, (2, 3), 1.8, 20, 3, 0.9, 0.9),
    # For models that a CPU trains: shorter contours, fewer pixels.
    "small16": Design(16, 0.5, 5, 2, 2, 2, 1.0, (0.7,), 1.0, 3, 1.2, 0.75, 1.0),
    "small32": Design(32, 1, 7, 3, 4, 3, 1.0, (1, 1.5), 1.2, 6, 1.5, 0.9, 0.9),
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is to be seen in a picture: two contours, distractors, and two marked dots."""

    design: Design
    margin: float
    contours: tuple[Contour, Contour]
    distractors: list[Contour]
    dots: tuple[complex, complex]

    def image(self) -> np.ndarray:
        """(side, side) uint8, row by row: light dashes and dots on black, smoothed at their edges."""
        design, grey = self.design, np.zeros((self.design.side, self.design.side), np.float32)
        dashes = [dash for contour in (*self.contours, *self.distractors) for dash in contour]
        n_contour = sum(map(len, self.contours))
        greys = [design.contour_grey] * n_contour + [design.distractor_grey] * (len(dashes) - n_contour)
        _draw_dashes(grey, np.array(dashes), np.array(greys, np.float32), design.dash_width)
        _draw_dots(grey, np.array(self.dots), design.marker_radius)
        return np.rint(255 * grey).astype(np.uint8)


def draw(design: Design, connected: bool, seed: str) -> Picture:
    """A picture whose dots are the ends of one contour (`connected`) or of both; the same for the same seed."""
    random = Random(seed).random  # and nothing else: the one method whose numbers Python promises never to change
    margin = design.margins[int(random() * len(design.margins))]
    while (picture := _try(design, margin, connected, random)) is None:
        pass
    return picture


# Finding room --------------------------------------------------------------------------------------------------------

_CELLS = 5  # of the grid, per distance that dashes keep
_TURNS = 6  # tried before going back
_TRIES_PER_DASH = 8
_BEGINNINGS = 10  # tried for one contour


def _try(design: Design, margin: float, connected: bool, random: Draw) -> Picture | None:
    """One attempt; None where a contour runs into a dead end."""
    room = _Room(design, margin, random)
    inner = 2 * design.seed_distance
    begin = complex(*(inner + random() * (design.side - 2 * inner) for _ in "xy"))
    first = room.grow(begin, design.contour_length)
    if first is None:
        return None
    for _ in range(_BEGINNINGS):
        second = room.grow(begin + cmath.rect(design.seed_distance, math.tau * random()), design.contour_length)
        if second is not None:
            break
    else:
        return None
    distractors = list(_distractors(room, design, random))
    contours = (first, second) if random() < 0.5 else (second, first)
    dots = (contours[0][0][0], contours[0 if connected else 1][-1][1])
    return Picture(design, margin, contours, distractors, dots)


def _distractors(room: "_Room", design: Design, random: Draw) -> Iterator[Contour]:
    for _ in range(design.distractors):
        for _ in range(_BEGINNINGS):
            begin = complex(random() * design.side, random() * design.side)
            if (contour := room.grow(begin, design.distractor_length)) is not None:
                yield contour
                break


class _Room:
    """The part of a picture where dashes may go: inside the padding, and away from those that are there."""

    def __init__(self, design: Design, margin: float, random: Draw):
        self._margin, self._random = margin, random
        self._low, self._high = design.padding, design.side - design.padding
        self._continuity = design.continuity
        # A grid with a bit a cell, in one integer, which costs nothing to go back to.
        self._taken = 0
        distance = 2 * margin + design.dash_width  # that the middle lines of dashes keep
        self._per_pixel = _CELLS / distance
        border = _CELLS + 1  # for the discs around points at the picture's edge
        self._columns = math.ceil(design.side * self._per_pixel) + 2 * border
        self._disc = _disc(self._columns)
        self._first_disc = (border - _CELLS) * (self._columns + 1)  # the corner of the one around the point 0
        self._first_cell = border * (self._columns + 1)
        n = math.ceil(design.dash_length * self._per_pixel / 2)
        self._steps = [design.dash_length * i / n for i in range(n + 1)]  # along a dash, at most two cells each

    def grow(self, begin: complex, n: int) -> Contour | None:
        """A contour of n dashes that begins at a point, and takes its room; or None."""
        self._tries = _TRIES_PER_DASH * n
        contour: Contour = []
        if self._is_free(self._taken, [begin]):
            taken = self._extend(contour, n, begin, 0.0, self._taken, [])
            if taken is not None:
                self._taken = taken
                return contour
        return None

    def _extend(
        self, contour: Contour, n: int, pivot: complex, heading: float, taken: int, previous: list[complex]
    ) -> int | None:
        """Extend a contour to n dashes, going back where it gets stuck. The cells then taken, or None.

        It turns at `pivot`, a margin before its next dash. What is `taken` does not count the points of its `previous`
        one, for the next one comes nearer to it than any other may.
        """
        taken_by_all = self._with(taken, previous)
        if len(contour) == n:
            return taken_by_all
        for _ in range(_TURNS):
            if not self._tries:
                break
            self._tries -= 1
            turned = heading + self._turn() if contour else math.tau * self._random()
            direction = cmath.rect(1, turned)
            near = pivot + self._margin * direction if contour else pivot
            points = [near + step * direction for step in self._steps]
            if self._is_free(taken, points):
                contour.append((near, points[-1]))
                pivot_after = points[-1] + self._margin * direction
                extended = self._extend(contour, n, pivot_after, turned, taken_by_all, points)
                if extended is not None:
                    return extended
                contour.pop()
        return None

    def _turn(self) -> float:
        """An angle, by rejection from cos²."""
        while True:
            angle = (self._random() - 0.5) * math.pi
            if self._random() < math.cos(angle) ** 2:
                return angle / self._continuity

    def _is_free(self, taken: int, points: list[complex]) -> bool:
        low, high = self._low, self._high
        for p in points:
            if not (low <= p.real <= high and low <= p.imag <= high) or taken >> self._cell(p) + self._first_cell & 1:
                return False
        return True

    def _with(self, taken: int, points: list[complex]) -> int:
        for p in points:
            taken |= self._disc << self._cell(p) + self._first_disc
        return taken

    def _cell(self, p: complex) -> int:
        return int(p.imag * self._per_pixel) * self._columns + int(p.real * self._per_pixel)


@functools.cache
def _disc(columns: int) -> int:
    """The cells within the distance that dashes keep from a point, in a grid of so many columns."""
    axis = range(-_CELLS, _CELLS + 1)
    inside = (
        (row + _CELLS) * columns + column + _CELLS
        for row in axis
        for column in axis
        if math.hypot(row, column) < _CELLS + 0.5
    )
    return sum(1 << cell for cell in inside)


# Drawing -------------------------------------------------------------------------------------------------------------


def _draw_dashes(grey: np.ndarray, dashes: np.ndarray, greys: np.ndarray, width: float) -> None:
    """Lighten grey (side, side) where the dashes (n, 2) are; each pixel by the share of it that a dash covers."""
    begin, end = dashes.T
    middle, along = (begin + end) / 2, (end - begin) / abs(end - begin)
    length = abs(end - begin).max()
    rows, columns, offset = _patches(middle, (length + width) / 2 + 1, len(grey))
    offset *= along.conj()[:, None, None]
    covered = _strip(offset.real, length) * _strip(offset.imag, width)
    _lighten(grey, rows, columns, covered * greys[:, None, None])


def _draw_dots(grey: np.ndarray, dots: np.ndarray, radius: float) -> None:
    rows, columns, offset = _patches(dots, radius + 1, len(grey))
    _lighten(grey, rows, columns, np.clip(radius + 0.5 - abs(offset), 0, 1))


def _strip(distance: np.ndarray, width: float) -> np.ndarray:
    """The share of a pixel that a strip covers whose middle line is that far from the pixel's middle."""
    return np.clip(width / 2 + 0.5 - abs(distance), 0, min(width, 1))


def _patches(middles: np.ndarray, reach: float, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n, k, 1) and columns (n, 1, k) of the pixels around points (n,), and their offsets from them (n, k, k)."""
    k = np.arange(-math.ceil(reach), math.ceil(reach) + 1)
    rows = (np.floor(middles.imag).astype(int)[:, None] + k)[:, :, None]
    columns = (np.floor(middles.real).astype(int)[:, None] + k)[:, None, :]
    return rows, columns, columns + 0.5 + 1j * (rows + 0.5) - middles[:, None, None]


def _lighten(grey: np.ndarray, rows: np.ndarray, columns: np.ndarray, by: np.ndarray) -> None:
    """Each pixel takes the lightest value, at most 1; what lies outside the picture is left away."""
    side = len(grey)
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    pixels = np.broadcast_to(rows * side + columns, by.shape)[inside]
    np.maximum.at(grey.reshape(-1), pixels, np.minimum(by[inside], 1).astype(np.float32))
