"""What a section measures: the rows of its table and the curves of its figure."""

from aire.report.figures import Curves


class Table:
    """The table of a section. The first row is the header.

    Attributes:
        rows: as printed.
        curves: of the section's figure, by quantity and panel; empty for no figure.
    """

    def __init__(self, *header: str):
        self.rows: list[tuple[str, ...]] = [header]
        self.curves: dict[str, dict[str, Curves]] = {}

    def add(self, *row: str) -> None:
        self.rows.append(row)

    def plot(self, quantity: str, panel: str, curve: str, size: float, value: float) -> None:
        """Add a point to a curve."""
        curves = self.curves.setdefault(quantity, {}).setdefault(panel, {})
        for values, number in zip(curves.setdefault(curve, ([], [])), (size, value), strict=True):
            values.append(number)
