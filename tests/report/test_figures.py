"""The figures of sweeps."""

import pytest

from aire.report import figures


@pytest.mark.parametrize("methods", [1, 5, 6])
def test_any_number_of_methods_is_drawn(methods, tmp_path):
    """As many curves as needed to reach the last line style, which is a tuple."""
    names = [f"method {i}" for i in range(methods)]
    curves = {name: [[0.9, 0.8], [0.9, 0.7]] for name in names}
    path = tmp_path / "figure.png"
    figures.accuracy_against_ratio([0.0, 0.5], curves, {"chance": 0.1}, dict.fromkeys(names, 0.5), "title", path)
    assert path.read_bytes().startswith(b"\x89PNG")
