"""The importer of typeseg's model, against a loop in NumPy on random weights."""

import numpy as np
import pytest

import aire
from aire.utils.errors import UserError
from experiments.tools.typeseg import tokens
from experiments.tools.typeseg_model import import_typeseg
from tests.helpers import logits

V, H, D, N, R, LABELS, DEPTH = 7, 4, 8, 3, 2, 5, 2


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"Embed_0/embedding": (V, H), "Dense_0/kernel": (H, LABELS), "Dense_0/bias": (LABELS,)}
    dense = {"Dense_0": (H, 2 * D), "Dense_1": (D, R + 2 * N), "Dense_2": (R, D), "Dense_3": (D, H)}
    for i in range(DEPTH):
        p = f"CheckpointMambaBlock1D_{i}/"
        shapes |= {f"{p}{name}/kernel": shape for name, shape in dense.items()}
        shapes |= {f"{p}{name}/bias": shape[1:] for name, shape in dense.items()}
        shapes |= {f"{p}Conv_0/kernel": (4, 1, D), f"{p}Conv_0/bias": (D,), f"{p}A_log": (D, N), f"{p}D": (D,)}
        shapes |= {f"{p}LayerNorm_0/{part}": (H,) for part in ("scale", "bias")}
    shapes |= {f"LayerNorm_0/{part}": (H,) for part in ("scale", "bias")}
    return {name: 0.5 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def by_hand(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The logits of one sequence, step by step in float64."""
    w = {name: a.astype(np.float64) for name, a in w.items()}

    def dense(name: str, h: np.ndarray) -> np.ndarray:
        return h @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def norm(name: str, h: np.ndarray) -> np.ndarray:
        centred = h - h.mean(axis=1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
        return unit * w[f"{name}/scale"] + w[f"{name}/bias"]

    def silu(a: np.ndarray) -> np.ndarray:
        return a / (1 + np.exp(-a))

    h = w["Embed_0/embedding"][x]
    for i in range(DEPTH):
        p = f"CheckpointMambaBlock1D_{i}/"
        u, z = np.split(dense(f"{p}Dense_0", norm(f"{p}LayerNorm_0", h)), 2, axis=1)
        padded = np.pad(u, ((1, 2), (0, 0)))
        window = [padded[k : k + len(u)] * w[f"{p}Conv_0/kernel"][k, 0] for k in range(4)]
        u = silu(sum(window) + w[f"{p}Conv_0/bias"])
        delta, B, C = np.split(dense(f"{p}Dense_1", u), [R, R + N], axis=1)
        delta = np.log1p(np.exp(dense(f"{p}Dense_2", delta))) + 1e-4
        y, A = np.zeros_like(u), -np.exp(w[f"{p}A_log"])
        for steps in (range(len(u)), range(len(u))[::-1]):
            s = np.zeros((D, N))
            for t in steps:
                s = np.exp(delta[t][:, None] * A) * s + (delta[t] * u[t])[:, None] * B[t]
                y[t] += s @ C[t] + w[f"{p}D"] * u[t]
        h = h + dense(f"{p}Dense_3", y * silu(z))
    return dense("Dense_0", norm("LayerNorm_0", h))


@pytest.fixture(scope="module")
def model():
    return import_typeseg({name.replace("/", "__"): a for name, a in weights().items()})


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).integers(0, V, (2, 9))


def test_computes_what_the_package_computes(model, x):
    expected = np.stack([by_hand(weights(), row) for row in x])
    np.testing.assert_allclose(logits(model, x), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::aire.pruning.refit.RefitWarning")  # few sequences
@pytest.mark.parametrize("method", ["measured_output", "surgeon"])
def test_a_cut_model_is_the_masked_one(model, x, method):
    result = aire.prune(model, 0.5, method, calibration=[x])
    assert sum(layer.states.after for layer in result.layers) == 3
    full = np.asarray(logits(model, x))
    masked = np.asarray(logits(aire.mask(model, result.cut), x))
    np.testing.assert_allclose(logits(result.model, x), masked, atol=1e-5 * np.abs(full).max())
    assert np.abs(masked - full).max() > 1e-3 * np.abs(full).max()


def test_a_refit_also_changes_the_bias_of_the_output_gates(model):
    """Of two states with one mode, the one that is kept gets the sum of both rows of C, with their biases."""
    layer = model.blocks[0].ssm
    same = {name: np.array(getattr(layer, name)[...]) for name in ("A_log", "x_proj_B", "B_bias")}
    same["A_log"][:], same["x_proj_B"][:], same["B_bias"][:] = same["A_log"][:, :1], same["x_proj_B"][:1], 0.3
    layer = layer.with_parameters(same)
    u = np.random.default_rng(0).normal(size=(8, 30, layer.in_proj.shape[1])).astype(np.float32)
    result = aire.prune(layer, 1 - 1 / layer.n_states, "surgeon", calibration=[u])
    assert result.model.n_states == 1
    np.testing.assert_allclose(logits(result.model, u), logits(layer, u), rtol=1e-2, atol=1e-3)


def test_a_file_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="missing CheckpointMambaBlock1D_1/D"):
        import_typeseg({name: a for name, a in weights().items() if name != "CheckpointMambaBlock1D_1/D"})
    with pytest.raises(UserError, match="unknown more"):
        import_typeseg(weights() | {"more": np.zeros(2)})


def test_tokens_are_ascii_and_one_for_the_rest():
    np.testing.assert_array_equal(tokens(b"a~\x7f\n\x00" + "é".encode()), [97, 126, 128, 10, 128, 128, 128])
