"""Layers and their AIRE scores by loops over the steps in NumPy's float64: what an accelerator is compared with."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Parameters = Mapping[str, np.ndarray]  # of a layer, by name, in float64; also `channel` of S4D


class Answer(NamedTuple):
    """Outputs (B, L, H), and the AIRE score of each state."""

    y: np.ndarray
    scores: np.ndarray


def s5(p: Parameters, u: np.ndarray) -> Answer:
    """S5 with zero-order hold and conjugate symmetry."""
    Lambda, Delta = p["Lambda_re"] + 1j * p["Lambda_im"], np.exp(p["log_step"])
    Lambda_bar = np.exp(Lambda * Delta)
    B_bar = ((Lambda_bar - 1) / Lambda)[:, None] * (p["B_re"] + 1j * p["B_im"])
    return _linear(Lambda_bar, B_bar, 2 * (p["C_re"] + 1j * p["C_im"]), p["D"], u, scale=2)


def lru(p: Parameters, u: np.ndarray) -> Answer:
    Lambda = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    B_bar = np.exp(p["gamma_log"])[:, None] * (p["B_re"] + 1j * p["B_im"])
    return _linear(Lambda, B_bar, p["C_re"] + 1j * p["C_im"], p["D"], u)


def s4d(p: Parameters, u: np.ndarray) -> Answer:
    """S4D with zero-order hold, as one system whose B̄ and C are zero outside of each state's channel."""
    own = np.eye(len(p["D"]))[p["channel"].astype(int)]  # (n, H)
    Lambda, Delta = -np.exp(p["log_A_real"]) + 1j * p["A_imag"], own @ np.exp(p["log_dt"])
    Lambda_bar = np.exp(Lambda * Delta)
    B_bar = ((Lambda_bar - 1) / Lambda)[:, None] * own
    C = 2 * (p["C_re"] + 1j * p["C_im"])[:, None] * own.T
    return _linear(Lambda_bar, B_bar, C, p["D"], u, scale=2)


def _linear(
    Lambda_bar: np.ndarray, B_bar: np.ndarray, C: np.ndarray, D: np.ndarray, u: np.ndarray, scale: float = 1
) -> Answer:
    """x_k = λ̄ x_{k-1} + B̄ u_k, y_k = Re(C x_k) + D u_k; two directions if C has two maps. Scores are of C / scale."""
    y = D * u
    for C_r, backward in zip(C, (False, True), strict=False):
        x = np.zeros((len(u), len(Lambda_bar)), complex)
        for k in _steps(u.shape[1], backward):
            x = Lambda_bar * x + u[:, k] @ B_bar.T
            y[:, k] += (x @ C_r.T).real
    energy = np.sum(np.abs(C / scale) ** 2, axis=(0, 1)) * np.sum(np.abs(B_bar) ** 2, axis=1)
    return Answer(y, energy / (1 - np.abs(Lambda_bar) ** 2))


def s6(p: Parameters, u: np.ndarray) -> Answer:
    """S6 without biases of its projections. Scores are of the mean squares of Ā, Δ B, x and C on these inputs."""
    L, width = u.shape[1], p["conv_weight"].shape[1]
    x, z = np.split(u @ p["in_proj"].T, 2, axis=-1)
    padded = np.pad(x, [(0, 0), (width - 1, 0), (0, 0)])
    x = _silu(sum(p["conv_weight"][:, k] * padded[:, k : k + L] for k in range(width)) + p["conv_bias"])
    Delta = np.logaddexp(0, x @ p["x_proj_dt"].T @ p["dt_proj"].T + p["dt_bias"])
    A, B, Cs = -np.exp(p["A_log"]), x @ p["x_proj_B"].T, [x @ C.T for C in p["x_proj_C"]]
    y = p["D"] * x
    for C, backward in zip(Cs, (False, True), strict=False):
        h = np.zeros((len(u), *A.shape))
        for k in _steps(L, backward):
            step = Delta[:, k, :, None]
            h = np.exp(step * A) * h + step * B[:, k, None] * x[:, k, :, None]
            y[:, k] += np.einsum("bdn,bn->bd", h, C[:, k])
    drive = np.einsum("bld,bln->dn", Delta**2, B**2) / (len(u) * L) * np.mean(x**2, axis=(0, 1))[:, None]
    margin = np.mean(1 - np.exp(2 * Delta[..., None] * A), axis=(0, 1))
    scores = sum(np.mean(C**2, axis=(0, 1)) for C in Cs) * np.sum(drive / margin, axis=0)
    return Answer((y * _silu(z)) @ p["out_proj"].T, scores)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _steps(length: int, backward: bool) -> range:
    return range(length - 1, -1, -1) if backward else range(length)


ORACLES: Mapping[str, Callable[[Parameters, np.ndarray], Answer]] = {"s5": s5, "s4d": s4d, "lru": lru, "s6": s6}
