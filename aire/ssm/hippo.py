"""Initial eigenvalues, eigenvectors and time steps of diagonal state space layers."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex128, Float32, PRNGKeyArray
from scipy.linalg import block_diag

from aire.utils.errors import UserError

MAX_SIZE = 2**14  # Already this eigendecomposition takes gigabytes and minutes.


def hippo_n(n: int) -> tuple[Complex128[np.ndarray, "n"], Complex128[np.ndarray, "n n"]]:
    """Eigendecomposition of HiPPO-N, the normal part of the HiPPO-LegS matrix.

    HiPPO-N is −½ I plus a skew-symmetric matrix (S4 paper, appendix C.1; S5 paper, section 4.3), so every eigenvalue
    has real part −½ and the eigenvectors are unitary.

    Args:
        n: size of the matrix.
    Returns:
        Eigenvalues by ascending imaginary part, and eigenvectors V.
    Raises:
        UserError: n is above `MAX_SIZE`.
    """
    if n > MAX_SIZE:
        raise UserError(
            f"HiPPO matrix of {n:,} states: expected at most {MAX_SIZE:,}; take more blocks or fewer states"
        )
    p = np.sqrt(np.arange(n) + 0.5)
    lower = -np.tril(np.outer(p, p), k=-1)
    skew = lower - lower.T
    imag, V = np.linalg.eigh(-1j * skew)
    return -0.5 + 1j * imag, V


def hippo_n_blocks(
    n_states: int, blocks: int, conj_sym: bool
) -> tuple[Complex128[np.ndarray, "stored"], Complex128[np.ndarray, "size stored"]]:
    """Block-diagonal HiPPO-N initialisation of an S5 layer (S5 paper, appendix B.1).

    `blocks` copies of HiPPO-N; under conjugate symmetry the half with the smaller imaginary parts is stored. Where
    `blocks` does not divide the size, the blocks are rounded up (to one state at least); the caller slices.

    Args:
        n_states: stored states P. Under conjugate symmetry the matrix has size 2P.
        blocks: number of blocks J.
        conj_sym: whether one of each conjugate pair is stored.
    Returns:
        Eigenvalues and eigenvectors V of the stored states of complete blocks, which are P or more.
    """
    size, stored = (n // blocks for n in block_sizes(n_states, blocks, conj_sym))
    Lambda, V = hippo_n(size)
    return np.tile(Lambda[:stored], blocks), block_diag(*[V[:, :stored]] * blocks)


def block_sizes(n_states: int, blocks: int, conj_sym: bool) -> tuple[int, int]:
    """The shape of the eigenvectors of `hippo_n_blocks`: the size of the matrix and the stored states."""
    stored = max(1, -(-n_states // blocks)) * blocks
    return 2 * stored if conj_sym else stored, stored


def s4d_legs(N: int) -> Complex128[np.ndarray, "pairs"]:
    """S4D-LegS: the eigenvalues of HiPPO-N with positive imaginary part, N/2 of them, ascending."""
    return hippo_n(N)[0][N // 2 :]


def s4d_inv(N: int) -> Complex128[np.ndarray, "pairs"]:
    """S4D-Inv: A_n = −½ + i N/π (N/(2n + 1) − 1), the inverse law that S4D-LegS follows."""
    n = np.arange(N // 2)
    return -0.5 + 1j * N / np.pi * (N / (2 * n + 1) - 1)


def s4d_lin(N: int) -> Complex128[np.ndarray, "pairs"]:
    """S4D-Lin: A_n = −½ + i π n, the frequencies of a Fourier series."""
    return -0.5 + 1j * np.pi * np.arange(N // 2)


# Initial eigenvalues of an S4D channel, one of each of the N/2 conjugate pairs (S4D paper).
S4D_INITS = {"legs": s4d_legs, "inv": s4d_inv, "lin": s4d_lin}


def log_steps(key: PRNGKeyArray, n: int, dt_min: float, dt_max: float) -> Float32[Array, "{n}"]:
    """Draw the logarithms of n time steps, uniform in [log dt_min, log dt_max]."""
    return jax.random.uniform(key, (n,), jnp.float32, np.log(float(dt_min)), np.log(float(dt_max)))
