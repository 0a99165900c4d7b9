"""Scores: how much a state matters. Pure functions from a layer's `Modes` to one number per state.

Add one in your own file:

    @aire.pruning.scores.register("slowness")
    def slowness(modes):
        return abs(modes.Lambda_bar)

and `aire.score`, `aire.prune` and the configs know it by name. A score names what else it needs, and receives it as a
keyword: `register("mine", needs=("moments",))` for a function mine(modes, moments).
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aire.pruning.moments import Moments
from aire.ssm import Modes
from aire.utils.errors import UserError

# What a score may need beside the modes:
#   moments: `Moments` of its layer, measured on calibration inputs
#   key: a JAX key, another one for each layer and each seed
NEEDS = ("moments", "key")

ScoreFn = Callable[..., Any]

_RELEASED_EPS = 1e-8  # both released codes add it to the denominator


@dataclasses.dataclass(frozen=True)
class Score:
    """A registered score.

    Attributes:
        fn: fn(modes, …) -> one non-negative number per state, real (n,); higher matters more.
        needs: names of `NEEDS`, passed as keywords.
        stable: whether it is defined for stable states alone, |λ̄| < 1.
        source: module and name of the function as it was registered.
    """

    fn: ScoreFn
    needs: tuple[str, ...] = ()
    stable: bool = False
    source: tuple[str, str] = ("", "")

    def __call__(self, modes: Modes, **given: Any) -> Any:
        return self.fn(modes, **given)


SCORES: dict[str, Score] = {}


def register(
    name: str, *, needs: Sequence[str] = (), stable: bool = False, jit: bool = False, overwrite: bool = False
) -> Callable[[ScoreFn], ScoreFn]:
    """Decorator that adds a score under `name`: fn(modes, …) -> one non-negative number per state, real (n,).

    Higher matters more. The prefix normalisation is meant for a squared norm (an energy).

    Args:
        needs: what it takes beside the modes, as keywords of these names: "moments" or "key" (see `NEEDS`).
        stable: whether it holds for |λ̄| < 1 alone, as energies of an infinite response do. Unstable states are then an
            error, or ranked first, before the score is used.
        jit: compile it; it may then use JAX alone. Without, NumPy will do.
        overwrite: take the place of another score of that name. The same function may be registered again without, as
            when a notebook cell runs twice.
    Raises:
        UserError: an unknown need, or a name that is taken.
    """
    needs = (needs,) if isinstance(needs, str) else tuple(needs)
    if unknown := set(needs) - set(NEEDS):
        raise UserError(f"score {name!r} needs {sorted(unknown)}: expected some of {list(NEEDS)}")

    def add(fn: ScoreFn) -> ScoreFn:
        source = getattr(fn, "__module__", ""), getattr(fn, "__qualname__", "")
        if name in SCORES and SCORES[name].source != source and not overwrite:
            raise UserError(f"score {name!r} exists already: choose another name, or pass overwrite=True")
        SCORES[name] = Score(jax.jit(fn) if jit else fn, needs, stable, source)
        return fn

    return add


def get(name: str) -> Score:
    """The score of that name. Raises UserError with the names there are."""
    if name not in SCORES:
        raise UserError(f"unknown score {name!r}: expected one of {sorted(SCORES)} (add one with scores.register)")
    return SCORES[name]


def evaluate(score: Score, modes: Modes, path: str, *, moments: Moments | None = None, seed: int = 0) -> Array:
    """A score of the layer at `path`, real (n,). A key is folded from the path and the seed.

    Raises:
        UserError: the score needs moments and there are none.
    """
    given: dict[str, Any] = {"moments": moments}
    if "key" in score.needs:
        given["key"] = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
    if "moments" in score.needs and moments is None:
        raise UserError(
            f"this score needs moments of layer {path!r}: pass moments=aire.calibrate(model, batches) to score, "
            "or calibration=batches to prune"
        )
    return score(modes, **{name: given[name] for name in score.needs})


def _input_energy(modes: Modes) -> Array:
    """‖B̄_{i,:}‖², real (n,)."""
    return jnp.sum(jnp.abs(modes.B_bar) ** 2, axis=1)


def _output_energy(modes: Modes) -> Array:
    """‖C_{:,i}‖², summed over the scan directions, real (n,)."""
    return jnp.sum(jnp.abs(modes.C) ** 2, axis=(0, 1))


def _released_output_norm(modes: Modes) -> Array:
    """What the released code has in place of ‖C_{:,i}‖² where there are two directions: (‖C1‖ + ‖C2‖) / 4.

    `(a + b) / 2 ** 2` divides by 2² instead of squaring the mean.
    """
    if modes.C.shape[0] == 1:
        return _output_energy(modes)
    return jnp.sum(jnp.sqrt(jnp.sum(jnp.abs(modes.C) ** 2, axis=1)), axis=0) / 4


def _peak_distance(modes: Modes) -> Array:
    """1 − |λ̄|, real (n,), from the accurate 1 − |λ̄|² = (1 − |λ̄|)(1 + |λ̄|)."""
    return modes.margin / (1 + jnp.abs(modes.Lambda_bar))


@register("aire", stable=True, jit=True)
def aire(modes: Modes) -> Array:
    """Total energy of the impulse response, Σ_k ‖C_{:,i} λ̄_i^k B̄_{i,:}‖² = ‖C_i‖² ‖B̄_i‖² / (1 − |λ̄_i|²).

    Equally ‖C_i‖² W_ii with W the controllability Gramian, the covariance of the states under white-noise inputs; and
    the squared H2 norm of the mode. With two directions the energies add. (AIRE-Prune, arXiv 2602.00534, E_i.)
    """
    return _output_energy(modes) * _input_energy(modes) / modes.margin


@register("last", stable=True, jit=True)
def last(modes: Modes) -> Array:
    """Squared H∞ norm, the peak of the mode's frequency response: ‖C_i‖² ‖B̄_i‖² / (1 − |λ̄_i|)² (LAST, NeurIPS 2024)."""
    return _output_energy(modes) * _input_energy(modes) / _peak_distance(modes) ** 2


@register("aire_released", stable=True, jit=True)
def aire_released(modes: Modes) -> Array:
    """`aire` as in its released code: other output norm for two directions, and 1e-8 added to the denominator."""
    return _released_output_norm(modes) * _input_energy(modes) / (modes.margin + _RELEASED_EPS)


@register("last_released", stable=True, jit=True)
def last_released(modes: Modes) -> Array:
    """`last` as in its released code, with the same two differences as `aire_released`."""
    return _released_output_norm(modes) * _input_energy(modes) / (_peak_distance(modes) ** 2 + _RELEASED_EPS)


@register("magnitude", jit=True)
def magnitude(modes: Modes) -> Array:
    """Squared magnitude of the state's parameters, |λ̄_i|² ‖B̄_i‖² ‖C_i‖².

    The baseline "magnitude" of LAST (NeurIPS 2024), whose released code does not hold it: the product over the three
    parameters of a state is our reading. Squared, as LAMP has it; that changes no order within or across layers.
    """
    return jnp.abs(modes.Lambda_bar) ** 2 * _input_energy(modes) * _output_energy(modes)


@register("hankel", stable=True, jit=True)
def hankel(modes: Modes) -> Array:
    """Hankel singular value of the mode alone, σ_i = ‖B̄_i‖ ‖C_i‖ / (1 − |λ̄_i|²).

    Its Gramians are the scalars ‖B̄_i‖² / (1 − |λ̄_i|²) and ‖C_i‖² / (1 − |λ̄_i|²); the singular value is the root of
    their product (Glover, 1984). Balanced truncation would order by it, if modes did not overlap. A baseline of ours,
    which neither paper has. It is not squared, because the error bound of balanced truncation, 2 Σ σ_i over what is
    cut, adds the values themselves: a share in their sum is a share in that bound.
    """
    return jnp.sqrt(_input_energy(modes) * _output_energy(modes)) / modes.margin


@register("measured", needs=("moments",))
def measured(modes: Modes, moments: Moments) -> np.ndarray:
    """Energy of the state's output under the inputs that the model really sees, ‖C_{:,i}‖² E|x_i|².

    Two directions add. `aire` is its value for white-noise inputs of unit variance over an infinite horizon, where
    E|x_i|² is the diagonal of the controllability Gramian. float64 (n,).
    """
    squares = np.sum(np.abs(np.asarray(modes.C, np.complex128)) ** 2, axis=1)  # (R, n)
    return np.sum(squares * moments.energy(), axis=0)


@register("random", needs=("key",), jit=True)
def random(modes: Modes, key: Array) -> Array:
    """Uniform in [0, 1), so that without a normalisation every set of states of one size is equally likely."""
    return jax.random.uniform(key, modes.margin.shape, modes.margin.dtype)


@jax.jit
def prefix_normalize(energies: Array) -> Array:
    """Share of each state in the energy of all states of its layer that are at least as strong, (n,) to (n,).

    Sorted descending, score_(i) = E_(i) / Σ_{j≤i} E_(j): the strongest state of a layer scores 1, so scores compare
    across layers and do not change with the layer's scale (AIRE-Prune and LAST, layer-adaptive normalisation). The
    paper's ε against 0/0 is the smallest normal float, so that it changes no other score.
    """
    # Relative to the strongest first, so that the sum can neither overflow nor vanish.
    E = energies / jnp.maximum(jnp.max(energies, initial=0), jnp.finfo(energies.dtype).tiny)
    order = jnp.argsort(-E, stable=True)
    E_sorted = E[order]
    shares = E_sorted / (jnp.cumsum(E_sorted) + jnp.finfo(E.dtype).tiny)
    return jnp.zeros_like(E).at[order].set(shares)


@jax.jit
def channel_normalize(energies: Array, channel: Array) -> Array:
    """`prefix_normalize` within each channel of a bank, (n,) and int (n,) to (n,): its strongest state scores 1.

    With one channel, as S5 has, the same as `prefix_normalize`. Costs no loop over channels, which may be ragged.
    """
    order = jnp.lexsort((-energies, channel))
    E, channel = energies[order], channel[order]
    starts = jnp.diff(channel, prepend=-1) != 0
    strongest = jax.lax.cummax(jnp.where(starts, jnp.arange(E.size), 0))  # index of the first state of its channel
    E = E / jnp.maximum(E[strongest], jnp.finfo(E.dtype).tiny)

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] | b[0], jnp.where(b[0], b[1], a[1] + b[1])

    # A sum that starts anew in each channel. Differences of one sum over all would lose the weak channels' digits.
    _, sums = jax.lax.associative_scan(add, (starts, E))
    return jnp.zeros_like(E).at[order].set(jnp.where(E > 0, E / sums, 0))


# (energies (n,), channel (n,)) -> (n,)
NORMALIZATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "prefix": lambda energies, channel: prefix_normalize(energies),
    "channel": channel_normalize,
    "none": lambda energies, channel: energies,
}
