"""Tables as text, Markdown, CSV and LaTeX, all from the same rows: the first row is the header.

No library, because runs print each row as soon as it is found, and libraries need all rows to set the widths. The rest
is a few lines, and libraries do not escape ± and − in LaTeX.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np

Rows = Sequence[Sequence[str]]


def text(rows: Rows) -> str:
    """Columns aligned by spaces, a rule under the header."""
    widths = _widths(rows)
    lines = [line(row, widths) for row in rows]
    return "\n".join([lines[0], rule(widths), *lines[1:]])


def line(row: Sequence[str], widths: Sequence[int]) -> str:
    """One row of `text`, so that a table can be printed row by row."""
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def rule(widths: Sequence[int]) -> str:
    """The rule under the header of `text`."""
    return "  ".join("-" * width for width in widths)


def markdown(rows: Rows) -> str:
    """A Markdown table, aligned so that it also reads as text."""
    widths = _widths(rows)
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def csv_text(rows: Sequence[Sequence]) -> str:
    """Comma-separated values, as Python's csv module writes them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _widths(rows: Rows) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]


def latex(rows: Rows, caption: str, label: str) -> str:
    """A LaTeX table with booktabs' rules: numbers, all columns but the first, to the right; any text is escaped."""
    lines = [" & ".join(map(_latex_text, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{_latex_text(caption)}}}\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "†": r"$\dagger$",
    "…": r"\ldots{}",
}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def mean_spread(values: Sequence[float], digits: int = 1) -> str:
    """The mean ± one sample standard deviation; the mean alone of a single value."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean
