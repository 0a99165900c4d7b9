"""Scores: how much a state matters. Pure functions from a layer's `Modes` to one number per state.

Add a score in your own file:

    @aire.pruning.scores.register("slowness")
    def slowness(modes):
        return abs(modes.Lambda_bar)

`aire.score`, `aire.prune` and the configs then accept its name. A score declares further inputs and receives them as
keywords: `register("mine", needs=("moments",))` for a function mine(modes, moments).
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, PRNGKeyArray

from aire.pruning.moments import AnyMoments
from aire.ssm import Modes
from aire.utils.arguments import follow, function
from aire.utils.checks import Rule
from aire.utils.errors import UserError, in_one_line

# Inputs that a score may need besides the modes:
#   moments: `Moments` of its layer, `GateMoments` if it is selective, measured on calibration inputs
#   key: a JAX key, different for each layer and each seed
NEEDS = ("moments", "key")

ScoreFn = Callable[..., Any]

_RELEASED_EPS = 1e-8  # both released codes add it to the denominator


@dataclasses.dataclass(frozen=True)
class Score:
    """A registered score.

    Attributes:
        fn: fn(modes, …) -> one non-negative number per mode, (n,). Higher matters more.
        needs: names of `NEEDS`, passed as keywords.
        stable: whether it is defined only for stable states, |λ̄| < 1.
        covariance: whether it reads `moments.covariance()`, which costs more to measure in selective layers.
        source: module and qualified name of the registered function.
    """

    fn: ScoreFn
    needs: tuple[str, ...] = ()
    stable: bool = False
    covariance: bool = False
    source: tuple[str, str] = ("", "")

    def __call__(self, modes: Modes, **given: Any) -> Any:
        return self.fn(modes, **given)


SCORES: dict[str, Score] = {}


def register(
    name: str,
    *,
    needs: Sequence[str] = (),
    stable: bool = False,
    covariance: bool = False,
    jit: bool = False,
    overwrite: bool = False,
) -> Callable[[ScoreFn], ScoreFn]:
    """Return a decorator that adds a score: fn(modes, …) -> one non-negative number per mode, (n,).

    Higher matters more. The prefix normalisation assumes a squared norm (an energy). A mode is a state unless
    `Modes.unit` says otherwise, as in selective layers: the numbers of all modes of a state then add.

    Args:
        name: key in `SCORES`.
        needs: further inputs, passed as keywords: "moments" or "key" (see `NEEDS`).
        stable: whether the score is defined only for |λ̄| < 1, as the energy of an infinite response is. Unstable states
            then raise an error or rank first. In a selective layer, such a score sees the modes that the calibration
            inputs make; other scores see nominal modes.
        covariance: whether the score reads `moments.covariance()`, which selective layers measure only if asked.
        jit: compile the function, which then must use JAX only. Otherwise it may use NumPy.
        overwrite: replace another score of this name. Not needed to register the same function again, as when a
            notebook cell runs twice.
    Raises:
        UserError: an unknown need, the name of another score, or what is decorated is no function.
    """
    follow("name", name, Rule("a printable name", lambda x: isinstance(x, str) and x != "" and x.isprintable()))
    follow(f"score {name!r}: needs", needs, Rule(f"some of {list(NEEDS)}", _are_needs))
    needs = (needs,) if isinstance(needs, str) else tuple(needs)

    def add(fn: ScoreFn) -> ScoreFn:
        function(f"score {name!r}", fn, "of a layer's modes")
        source = getattr(fn, "__module__", ""), getattr(fn, "__qualname__", "")
        if name in SCORES and SCORES[name].source != source and not overwrite:
            raise UserError(f"score {name!r} exists already: choose another name, or pass overwrite=True")
        SCORES[name] = Score(jax.jit(fn) if jit else fn, needs, stable, covariance, source)
        return fn

    return add


def _are_needs(needs: object) -> bool:
    """Whether these are names of `NEEDS`, or one of them."""
    return needs in NEEDS if isinstance(needs, str) else isinstance(needs, Sequence) and all(n in NEEDS for n in needs)


def get(name: str) -> Score:
    """Return the score of this name. Raise UserError if there is none."""
    if not isinstance(name, str) or name not in SCORES:
        raise UserError(f"unknown score {name!r}: expected one of {sorted(SCORES)} (add one with scores.register)")
    return SCORES[name]


def evaluate(
    score: Score, modes: Modes, path: str, *, name: str = "", moments: AnyMoments | None = None, seed: int = 0
) -> Any:
    """Compute a score of the layer at `path`, (n,). Its key depends on the path and the seed.

    Raises:
        UserError: the score needs moments and they are missing, or its function fails.
    """
    given: dict[str, Any] = {"moments": moments}
    if "key" in score.needs:
        given["key"] = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
    if "moments" in score.needs and moments is None:
        raise UserError(
            f"this score needs moments of layer {path!r}: pass moments=aire.calibrate(model, batches) to score, "
            "or calibration=batches to prune"
        )
    try:
        return score(modes, **{need: given[need] for need in score.needs})
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        raise UserError(f"score {name!r} fails for layer {path!r} with {in_one_line(error)}") from error


def _input_energy(modes: Modes) -> Float[Array, "n"]:
    """‖B̄_{i,:}‖²."""
    return jnp.sum(jnp.abs(modes.B_bar) ** 2, axis=1)


def _output_energy(modes: Modes) -> Float[Array, "n"]:
    """‖C_{:,i}‖², summed over the scan directions."""
    return jnp.sum(jnp.abs(modes.C) ** 2, axis=(0, 1))


def _released_output_norm(modes: Modes) -> Float[Array, "n"]:
    """The released code's version of ‖C_{:,i}‖² for two directions: (‖C1‖ + ‖C2‖) / 4.

    `(a + b) / 2 ** 2` divides by 2² instead of squaring the mean.
    """
    if modes.C.shape[0] == 1:
        return _output_energy(modes)
    return jnp.sum(jnp.sqrt(jnp.sum(jnp.abs(modes.C) ** 2, axis=1)), axis=0) / 4


def _peak_distance(modes: Modes) -> Float[Array, "n"]:
    """1 − |λ̄|, from the accurate 1 − |λ̄|² = (1 − |λ̄|)(1 + |λ̄|)."""
    return modes.margin / (1 + jnp.abs(modes.Lambda_bar))


@register("aire", stable=True, jit=True)
def aire(modes: Modes) -> Float[Array, "n"]:
    """Total energy of the impulse response, Σ_k ‖C_{:,i} λ̄_i^k B̄_{i,:}‖² = ‖C_i‖² ‖B̄_i‖² / (1 − |λ̄_i|²).

    Equally ‖C_i‖² W_ii with W the controllability Gramian, the covariance of the states under white-noise inputs; and
    the squared H2 norm of the mode. With two directions the energies add. (AIRE-Prune, arXiv 2602.00534, E_i.)
    """
    return _output_energy(modes) * _input_energy(modes) / modes.margin


@register("last", stable=True, jit=True)
def last(modes: Modes) -> Float[Array, "n"]:
    """Squared H∞ norm, the peak of the mode's frequency response: ‖C_i‖² ‖B̄_i‖² / (1 − |λ̄_i|)² (LAST, NeurIPS 2024)."""
    return _output_energy(modes) * _input_energy(modes) / _peak_distance(modes) ** 2


@register("aire_released", stable=True, jit=True)
def aire_released(modes: Modes) -> Float[Array, "n"]:
    """`aire` as in its released code: other output norm for two directions, and 1e-8 added to the denominator."""
    return _released_output_norm(modes) * _input_energy(modes) / (modes.margin + _RELEASED_EPS)


@register("last_released", stable=True, jit=True)
def last_released(modes: Modes) -> Float[Array, "n"]:
    """`last` as in its released code, with the same two differences as `aire_released`."""
    return _released_output_norm(modes) * _input_energy(modes) / (_peak_distance(modes) ** 2 + _RELEASED_EPS)


@register("magnitude", jit=True)
def magnitude(modes: Modes) -> Float[Array, "n"]:
    """Squared magnitude of the state's parameters, |λ̄_i|² ‖B̄_i‖² ‖C_i‖².

    The baseline "magnitude" of LAST (NeurIPS 2024). Its released code does not contain this baseline: the product over
    the three parameters of a state is our reading. Squared, as in LAMP, which changes no order within or across layers.
    """
    return jnp.abs(modes.Lambda_bar) ** 2 * _input_energy(modes) * _output_energy(modes)


@register("hankel", stable=True, jit=True)
def hankel(modes: Modes) -> Float[Array, "n"]:
    """Hankel singular value of the mode alone, σ_i = ‖B̄_i‖ ‖C_i‖ / (1 − |λ̄_i|²).

    Its Gramians are the scalars ‖B̄_i‖² / (1 − |λ̄_i|²) and ‖C_i‖² / (1 − |λ̄_i|²); the singular value is the root of
    their product (Glover, 1984). Balanced truncation would order by it if modes did not overlap. Our own baseline, in
    neither paper. It is not squared, because the error bound of balanced truncation, 2 Σ σ_i over the cut states, adds
    the values themselves: a share of their sum is a share of that bound.
    """
    return jnp.sqrt(_input_energy(modes) * _output_energy(modes)) / modes.margin


@register("measured", needs=("moments",))
def measured(modes: Modes, moments: AnyMoments) -> Float64[np.ndarray, "n"]:
    """Energy of the state's output on real inputs of the model, ‖C_{:,i}‖² E|x_i|²; E[(C_n h_i)²] if C is selective.

    The energies of two directions add. `aire` is its value for white-noise inputs of unit variance over an infinite
    horizon, where E|x_i|² is the diagonal of the controllability Gramian.
    """
    return np.sum(moments.contribution(modes), axis=0)


@register("measured_output", needs=("moments",))
def measured_output(modes: Modes, moments: AnyMoments) -> Float64[np.ndarray, "n"]:
    """Energy that the state sends to the layer's output: `measured`, behind the gate and the output map of S6.

    E[(C_n h_i silu(z_d))²] ‖W_d‖² there. Equals `measured` for layers whose output is C x.
    """
    return np.sum(moments.output_contribution(modes), axis=0)


@register("random", needs=("key",), jit=True)
def random(modes: Modes, key: PRNGKeyArray) -> Float[Array, "n"]:
    """Uniform in [0, 1). Without normalisation, all sets of states of the same size are equally likely.

    The modes of a state share its number.
    """
    drawn = jax.random.uniform(key, modes.margin.shape, modes.margin.dtype)
    if modes.unit is None:
        return drawn
    return (drawn / jnp.bincount(modes.unit, length=drawn.size).astype(drawn.dtype))[modes.unit]


@jax.jit
def prefix_normalize(energies: Float[Array, "n"]) -> Float[Array, "n"]:
    """Share of each state in the energy of all states of its layer that are at least as strong.

    Sorted descending, score_(i) = E_(i) / Σ_{j≤i} E_(j): the strongest state of a layer scores 1, so scores compare
    across layers and do not change with the layer's scale (AIRE-Prune and LAST, layer-adaptive normalisation). The
    paper's ε against 0/0 is the smallest normal float here, so that it changes no other score.
    """
    # Relative to the strongest state, so that the sum neither overflows nor vanishes.
    E = energies / jnp.maximum(jnp.max(energies, initial=0), jnp.finfo(energies.dtype).tiny)
    order = jnp.argsort(-E, stable=True)
    E_sorted = E[order]
    shares = E_sorted / (jnp.cumsum(E_sorted) + jnp.finfo(E.dtype).tiny)
    return jnp.zeros_like(E).at[order].set(shares)


@jax.jit
def channel_normalize(energies: Float[Array, "n"], channel: Int[Array, "n"]) -> Float[Array, "n"]:
    """`prefix_normalize` within each channel of a bank: its strongest state scores 1.

    Equals `prefix_normalize` for one channel, as in S5. Uses no loop over channels, which may be ragged.
    """
    order = jnp.lexsort((-energies, channel))
    E, channel = energies[order], channel[order]
    starts = jnp.diff(channel, prepend=-1) != 0
    strongest = jax.lax.cummax(jnp.where(starts, jnp.arange(E.size), 0))  # index of the first state of its channel
    E = E / jnp.maximum(E[strongest], jnp.finfo(E.dtype).tiny)

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] | b[0], jnp.where(b[0], b[1], a[1] + b[1])

    # A cumulative sum that restarts in each channel. Differences of one global sum would lose digits of weak channels.
    _, sums = jax.lax.associative_scan(add, (starts, E))
    return jnp.zeros_like(E).at[order].set(jnp.where(E > 0, E / sums, 0))


# (energies (n,), channel (n,)) -> (n,)
NORMALIZATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "prefix": lambda energies, channel: prefix_normalize(energies),
    "channel": channel_normalize,
    "none": lambda energies, channel: energies,
}
