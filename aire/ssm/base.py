"""The base class of state space layers: cutting, masking, modes and states.

Axis legend of the package: B batch, L length, H features, P stored states of a MIMO layer such as S5 (one of each
conjugate pair under conjugate symmetry), N state dimension of an S4D channel, n stored states of any layer, R scan
directions (1 or 2), I inputs and O outputs of a channel (H and H for a MIMO layer, 1 and 1 for S4D).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Complex, Float, Int32, Shaped

from aire.ssm.modes import Modes
from aire.ssm.scan import diagonal_scan
from aire.utils.arguments import describe, follow, instance, is_traced, mapping, numbers
from aire.utils.checks import integer
from aire.utils.errors import UserError

# Limits, so that a number typed or read wrong is an error and not a layer that fills the memory.
MAX_FEATURES, MAX_STATES = 2**16, 2**24


class StateSpaceLayer(nnx.Module):
    """x_k = λ̄ x_{k-1} + B̄ u_k, y_k = s Re(C x_k) + D u_k in one direction or two: (B, L, H) to (B, L, H).

    A subclass sets the three class attributes below. It stores its output map in `C_re`, `C_im`, whose last axis is the
    state axis, and `D` (H,). It defines `discrete`, `drive` and `__call__`, and should override `margin` with a
    numerically stable form. `aire.ssm.MIMO` defines all but `discrete` for layers whose states see all features.

    Attributes:
        STATE_AXIS: the state axis of each array that has one. Cutting and importing use it.
        ROLES: the role of trained arrays: "eigenvalue", "step", "input", "output" or "skip". The optimiser groups
            parameters by role. Arrays without a role train as the rest of the model.
        READOUT: the arrays that store the readout, besides D.
        RUN_OPTIONS: the fields of `config` that belong to a run, not to the trained layer.
        SELECTIVE: whether λ̄, B̄ and C depend on the inputs. The `modes` of such a layer are nominal, its readout is what
            makes C of its inputs, and it defines `gate_sums`.
        config: the layer's options, a frozen dataclass with a field `kind`, and `bidirectional` if the layer can be.
    """

    STATE_AXIS: ClassVar[Mapping[str, int]]
    ROLES: ClassVar[Mapping[str, str]]
    READOUT: ClassVar[tuple[str, ...]] = ("C_re", "C_im")
    RUN_OPTIONS: ClassVar[tuple[str, ...]] = ()
    SELECTIVE: ClassVar[bool] = False

    config: Any
    C_re: nnx.Param
    C_im: nnx.Param
    D: nnx.Param

    @property
    def n_states(self) -> int:
        """The number n of stored states."""
        name, axis = next(iter(self.STATE_AXIS.items()))
        return getattr(self, name).shape[axis]

    @property
    def reverse(self) -> tuple[bool, ...]:
        """For each scan direction, whether it runs backward. One forward direction unless `config` is bidirectional."""
        return (False, True) if getattr(self.config, "bidirectional", False) else (False,)

    @property
    def output_scale(self) -> float:
        """The factor s of the output: 2 if one of each conjugate pair is stored."""
        return 1.0

    def discrete(self) -> tuple[Complex[Array, "n"], Complex[Array, "n I"]]:
        """λ̄ and B̄."""
        raise NotImplementedError

    def drive(self, u: Float[Array, "B L H"]) -> Float[Array, "B L 2 n"]:
        """Real and imaginary part of B̄ u, in the parameters' precision."""
        raise NotImplementedError

    def margin(self) -> Float[Array, "n"]:
        """1 − |λ̄|². Computed from log |λ̄|, it keeps more digits near |λ̄| = 1."""
        return 1 - jnp.abs(self.discrete()[0]) ** 2

    def channels(self) -> Int32[Array, "n"]:
        """The independent system that each state belongs to, ascending. One system unless overridden."""
        return jnp.zeros(self.n_states, jnp.int32)

    def readout(self) -> Complex[Array, "R O n"]:
        """C."""
        return jax.lax.complex(self.C_re[...], self.C_im[...])

    def precise_input(self) -> Complex[Array, "n I"]:
        """B̄ for scores. Where `discrete` loses digits of it, a subclass computes it in another way."""
        return self.discrete()[1]

    def modes(self) -> Modes:
        """The layer as a bank of discrete modes, the input of scores.

        Its margin and B̄ have the digits of the parameters also for slow modes. Those that the layer itself computes
        with may have fewer, so that its outputs are the reference's.
        """
        Lambda_bar, B_bar = self.discrete()[0], self.precise_input()
        return Modes(Lambda_bar, B_bar, self.readout(), self.margin(), self.channels(), self.output_scale)

    def gate_sums(self, u: Float[Array, "B L H"], mask: Float[Array, "B L"]) -> dict[str, Array]:
        """Sums over the steps where `mask` is 1, of a selective layer: the arrays of `aire.pruning.GateMoments`."""
        raise NotImplementedError

    def system(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L H"]:
        """The output of the state space, y_k = s Re(C x_k) + D u_k. Differs from a call if an output stage follows."""
        return self(u)

    def state_pairs(self, u: Float[Array, "B L H"]) -> Float[Array, "B L R 2 n"]:
        """Real and imaginary part of all states, from zero initial states."""
        return diagonal_scan(self.discrete()[0], self.drive(u), reverse=self.reverse)

    def states(self, u: Shaped[ArrayLike, "B L H"]) -> Complex[Array, "B L R n"]:
        """All states, from zero initial states."""
        x = self.state_pairs(self._inputs(u))
        return jax.lax.complex(x[..., 0, :], x[..., 1, :])

    def read(self, x: Float[Array, "B L R 2 n"], u: Float[Array, "B L H"]) -> Float[Array, "B L H"]:
        """The output y = s Re(C x) + D u of given states, as real and imaginary part."""
        raise NotImplementedError

    def step(self, u: Float[Array, "B H"], x: Any) -> tuple[Float[Array, "B H"], Any]:
        """Advance the recurrence by one step: return the output y and the new states.

        Raises:
            UserError: the layer is bidirectional, so it needs the complete sequence.
        """
        raise NotImplementedError

    def scan(self, u: Float[Array, "B L H"], x: Any) -> tuple[Float[Array, "B L H"], Any]:
        """Apply the layer to the next L steps of a sequence, as `step` does L times: return outputs and last states.

        Raises:
            UserError: the layer is bidirectional, so it needs the complete sequence.
        """
        self.check_one_direction()
        u = as_floats(u, self.D.dtype)
        Lambda_bar, _ = self.discrete()
        before = Lambda_bar[None] * x
        v = self.drive(u).at[:, 0].add(jnp.stack([before.real, before.imag], axis=1))
        pairs = diagonal_scan(Lambda_bar, v, reverse=self.reverse)
        return self.read(pairs, u), jax.lax.complex(pairs[:, -1, 0, 0], pairs[:, -1, 0, 1])

    def cut(self, keep: Bool[ArrayLike, "n"]) -> Self:
        """Return a layer with only the states where `keep` is true. Its arrays are smaller.

        Raises:
            UserError: `keep` is no mask of the states, or traced.
        """
        keep = self._mask(keep)
        if is_traced(keep):
            raise UserError("keep is traced: it decides the shapes, so cut outside of jax.jit, or use mask")
        kept = np.flatnonzero(np.asarray(keep))
        return self._replaced(
            {name: jnp.take(getattr(self, name)[...], kept, axis=axis) for name, axis in self.STATE_AXIS.items()}
        )

    def mask(self, keep: Bool[ArrayLike, "n"]) -> Self:
        """Return a layer of the same size in which the states where `keep` is false reach no output.

        Raises:
            UserError: `keep` is no mask of the states.
        """
        keep, C = jnp.asarray(self._mask(keep)), {name: getattr(self, name)[...] for name in ("C_re", "C_im")}
        return self._replaced(
            {name: jnp.where(jnp.expand_dims(keep, range(a.ndim - 1)), a, 0) for name, a in C.items()}
        )

    def with_readout(self, C: npt.ArrayLike, D: npt.ArrayLike) -> Self:
        """Return the layer with another output map: C, shaped as `readout` returns it, and D (H,).

        Raises:
            UserError: C or D has another shape, or is no array of numbers.
        """
        own = self.readout()
        kinds, expected = ("fciu", "numbers") if jnp.iscomplexobj(own) else ("fiu", "real numbers")
        C = jnp.asarray(numbers("C", C, kinds=kinds, expected=expected))
        D = jnp.asarray(numbers("D", D))
        if C.shape != own.shape or D.shape != self.D.shape:
            expected = f"C {list(own.shape)} and D {list(self.D.shape)}"
            raise UserError(f"readout with C {list(C.shape)} and D {list(D.shape)}: expected {expected}")
        new = {}
        for name, a in {**self._parts_of_readout(C), "D": D}.items():
            variable = getattr(self, name)
            new[name] = a.reshape(variable.shape).astype(variable.dtype)
        return self._replaced(new)

    def _parts_of_readout(self, C: Array) -> dict[str, Array]:
        """The arrays that store a readout."""
        return {"C_re": C.real, "C_im": C.imag}

    def with_parameters(self, arrays: Mapping[str, npt.ArrayLike]) -> Self:
        """Return the layer with other arrays in its parameters, of the same shapes.

        Raises:
            UserError: an array has another shape or is no array of numbers, or a name is unknown.
        """
        new = {}
        mapping("arrays", arrays, "from names of parameters to arrays")
        for name, given in arrays.items():
            own, array = getattr(self, name, None), numbers(name, given)
            if not isinstance(own, nnx.Variable):
                raise UserError(f"no parameter {name!r}: expected some of {sorted(self.ROLES)}")
            if np.shape(array) != own.shape:
                raise UserError(f"{name} has shape {list(np.shape(array))}: expected {list(own.shape)}")
            new[name] = jnp.asarray(array, own.dtype)
        return self._replaced(new)

    def initial_state(self, batch: int) -> Complex[Array, "{batch} n"]:
        """Zero states, the initial argument of `step`. Raise UserError unless `batch` is a whole number."""
        follow("batch", batch, integer(0, 2**31))
        return jnp.zeros((batch, self.n_states), np.result_type(self.D.dtype, np.complex64))

    def check_one_direction(self) -> None:
        """Raise UserError if the layer is bidirectional."""
        if len(self.reverse) > 1:
            raise UserError("step() needs a one-directional layer: a bidirectional one needs the complete sequence")

    def _inputs(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L H"]:
        """Return the argument of a call as an array of floats. Raise UserError unless it is (B, L, H), not empty."""
        u = as_floats(numbers("u", u, kinds="fiub", expected="real numbers"), self.D.dtype)
        if u.ndim != 3 or u.shape[2] != self.D.size or not u.shape[0] * u.shape[1]:
            raise UserError(f"u is {u.dtype}{list(u.shape)}: expected (B, L, {self.D.size}), at least one step of one")
        return u

    def _step_inputs(
        self, u: Shaped[ArrayLike, "B H"], x: Complex[Array, "B n"]
    ) -> tuple[Float[Array, "B H"], Complex[Array, "B n"]]:
        """Return the arguments of `step` as arrays.

        Raises:
            UserError: a wrong shape or dtype, or the layer is bidirectional, so it needs the complete sequence.
        """
        self.check_one_direction()
        u = as_floats(numbers("u", u, kinds="fiub", expected="real numbers"), self.D.dtype)
        x = jnp.asarray(numbers("x", x, kinds="c", expected="complex states, such as from initial_state"))
        if u.ndim != 2 or u.shape[1] != self.D.size or x.shape != (u.shape[0], self.n_states):
            expected = f"(B, {self.D.size}) and (B, {self.n_states})"
            raise UserError(f"u {list(u.shape)} and x {list(x.shape)}: expected {expected}")
        return u, x

    def _mask(self, keep: object) -> Any:
        mask = numbers("keep", keep, kinds="fiub", expected="booleans")
        if mask.shape != (self.n_states,) or mask.dtype != np.bool_:
            raise UserError(f"keep is {mask.dtype}{list(mask.shape)}: expected bool[{self.n_states}]")
        return mask

    def _replaced(self, arrays: Mapping[str, Array]) -> Self:
        """Copy the layer with other arrays in its variables, which keep their metadata."""
        layer = nnx.clone(self)
        for name, array in arrays.items():
            setattr(layer, name, getattr(self, name).replace(array))
        return layer


def check_new_layer(d_model: object, n_states: object, config: object, kind: type, rngs: Any) -> None:
    """Check the arguments of a layer's constructor.

    Raises:
        UserError: a size out of range, a config of another class, or `rngs` without keys for parameters.
    """
    follow("d_model", d_model, integer(1, MAX_FEATURES))
    follow("n_states", n_states, integer(0, MAX_STATES))
    instance("config", config, kind, f"an aire.ssm.{kind.__name__}")
    check_rngs(rngs)


def check_rngs(rngs: Any) -> None:
    """Raise UserError unless this gives keys for parameters, as flax.nnx.Rngs(0) does."""
    if not callable(getattr(rngs, "params", None)):
        raise UserError(f"rngs: expected flax.nnx.Rngs with keys for params, such as Rngs(0), not {describe(rngs)}")


def as_floats(u: Shaped[ArrayLike, "*A"], dtype: DTypeLike) -> Float[Array, "*A"]:
    """Convert integers and booleans to `dtype`. Floats keep their precision."""
    u = jnp.asarray(u)
    return u if jnp.issubdtype(u.dtype, jnp.floating) else u.astype(dtype)
