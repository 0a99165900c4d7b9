"""The figure of the eigenvalues: coordinates against NumPy, and cut states drawn hollow."""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import aire
from aire.report import eigenvalues

LAMBDA = np.array([0.9, 0.99 * np.exp(0.3j), 0.5 * np.exp(-2j)], np.complex64)


def test_time_scale_frequency_and_hollow_markers(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    modes = aire.Modes.discrete(jnp.asarray(LAMBDA), jnp.ones((3, 1)), jnp.ones((1, 3)))
    keep = {"layer": np.array([True, False, True])}
    eigenvalues.draw({"layer": modes}, keep, "title", tmp_path / "figure.png")
    _, plane = drawn[0].axes
    cut, kept = (np.asarray(marks.get_offsets()) for marks in plane.collections)
    frequency, steps = np.abs(np.angle(LAMBDA)) / (2 * np.pi), -1 / np.log(np.abs(LAMBDA))
    frequency[0] = 1e-4  # real states are at the left edge
    np.testing.assert_allclose(kept, np.stack([frequency, steps], 1)[[0, 2]], rtol=1e-4)
    np.testing.assert_allclose(cut, np.stack([frequency, steps], 1)[[1]], rtol=1e-4)
    assert len(plane.collections[0].get_facecolor()) == 0 and len(plane.collections[1].get_facecolor()) == 1
