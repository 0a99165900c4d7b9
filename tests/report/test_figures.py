"""Figures of pruning runs: lengths of bars, colours, and labels that hide nothing."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from aire.report import figures, small_multiples


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    return found


def test_the_bars_are_the_shares_of_the_states_kept(drawn, tmp_path):
    figures.states_per_layer([8, 2000, 0], {"aire": [2, 500, 0]}, "title", tmp_path / "figure.png")
    [axes] = drawn[0].axes
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(2, 2, 4)  # row; ground, bar; layer, all
    np.testing.assert_allclose(widths[:, 1] / widths[:, 0], [[1, 1, 0, 1], [0.25, 0.25, 0, 502 / 2008]])
    assert [text.get_text() for text in axes.texts] == ["8", "2,000", "0", "2,008", "2", "500", "0", "502"]


def test_a_method_has_its_colour_beside_any_others():
    palette = small_multiples.THEMES["light"][3]
    assert small_multiples.colours(["mine", "surgeon", "AIRE", "other"], "light") == [palette[i] for i in (1, 2, 0, 3)]
    assert small_multiples.colours(["reconstruct", "last"], "light") == [palette[3], palette[0]]
    everyone = ["random", "magnitude_global", "last", "aire", "measured", "surgeon"]
    assert sorted(small_multiples.colours(everyone, "dark")) == sorted(small_multiples.THEMES["dark"][3])


def test_labels_cover_neither_each_other_nor_other_curves(drawn, tmp_path):
    ratios = np.linspace(0, 0.9, 10)
    curves = {f"m{i}": -((ratios * (6 - i)) ** 3)[None] for i in range(5)}
    small_multiples.draw([[("title", curves)]], ratios, 1.0, tmp_path / "figure.png", "light")
    figure = drawn[0]
    figure.draw_without_rendering()
    [axes] = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        for line in axes.lines[0:10:2]:  # a curve, then its ring
            x, y = axes.transData.transform(np.transpose(line.get_data())).T
            fine = np.linspace(box.x0, box.x1, 50)
            assert not np.any(np.abs(np.interp(fine, x, y, right=np.nan) - (box.y0 + box.y1) / 2) < 5)
