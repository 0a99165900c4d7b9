"""Naive layers and blocks, written as in the papers: the baseline of the benchmark.

S5: complex arrays, `associative_scan` over λ̄ and B̄ u, one sequence at a time under `vmap` (S5 paper, appendix A and its
listing). S4D: the Vandermonde product over all states and steps, then the FFT (S4D paper, listing 1). S6: the scan
alone, an `associative_scan` of all states. All compute the same as our layers; tests compare values and gradients.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from aire.models import Block, Classifier, ModelConfig
from aire.ssm import S4D, S5


class NaiveS5(S5):
    """S5 with a complex associative scan of each sequence."""

    def __call__(self, u: Array) -> Array:
        Lambda_bar, B_bar = self.discrete()
        C = jnp.concatenate(jax.lax.complex(self.C_re[...], self.C_im[...]), axis=-1)

        def combine(first, second):
            return second[0] * first[0], second[0] * first[1] + second[1]

        def sequence(u: Array) -> Array:
            elements = jnp.broadcast_to(Lambda_bar, (len(u), *Lambda_bar.shape)), jax.vmap(lambda u: B_bar @ u)(u)
            scans = [jax.lax.associative_scan(combine, elements, reverse=r)[1] for r in self.reverse]
            x = jnp.concatenate(scans, axis=-1)
            return self.output_scale * jax.vmap(lambda x: (C @ x).real)(x)

        return jax.vmap(sequence)(u) + self.D[...] * u


class NaiveS4D(S4D):
    """S4D that computes all powers of all states at once. Every channel must have the same number of states."""

    def __call__(self, u: Array) -> Array:
        Lambda_bar, B_bar = self.discrete()
        H, L = u.shape[-1], u.shape[1]
        weights = 2 * jax.lax.complex(self.C_re[...], self.C_im[...]) * B_bar[:, 0]
        powers = jnp.exp(jnp.log(Lambda_bar)[:, None] * jnp.arange(L)).reshape(H, -1, L)
        K = jnp.einsum("rhn,hnl->rhl", weights.reshape(len(weights), H, -1), powers).real
        K_f, u_f = jnp.fft.rfft(K, 2 * L), jnp.fft.rfft(u, 2 * L, axis=1)
        K_f = K_f[0] if len(K) == 1 else K_f[0] + K_f[1].conj()
        return jnp.fft.irfft(u_f * K_f.T, 2 * L, axis=1)[:, :L] + self.D[...] * u


def naive_selective_scan(u: Array, Delta: Array, A: Array, B: Array, C: Array) -> Array:
    """`selective_scan` with Ā, Δ B u and the states of all steps in memory. Shapes as there."""
    A_bar = jnp.exp(Delta[:, :, None] * A)  # (B, L, N, D)
    Bu = B[..., None] * (Delta * u)[:, :, None]

    def combine(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    _, h = jax.lax.associative_scan(combine, (A_bar, Bu), axis=1)
    return jnp.einsum("bln,blnd->bld", C, h)


_LAYERS = {"s5": NaiveS5, "s4d": NaiveS4D}


class NaiveBlock(Block):
    """`Block` with Flax's batch norm, plain dense layers and automatic gradients."""

    def __init__(self, config: ModelConfig, n_states: int, *, rngs: nnx.Rngs):
        super().__init__(config, n_states, rngs=rngs)
        self.ssm = _LAYERS[config.ssm.kind](config.d_model, n_states, config.ssm, rngs=rngs)
        if config.batchnorm:
            self.norm = nnx.BatchNorm(config.d_model, momentum=config.bn_momentum, rngs=rngs)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        if self.prenorm:
            return x + self._activate(self.ssm(self.norm(x)))
        return self.norm(x + self._activate(self.ssm(x)))

    def _activate(self, y: Array) -> Array:
        g = jax.nn.gelu(y, approximate=self.activation != "glu")
        if self.activation == "gelu":
            return g
        value = {"half_glu1": g, "half_glu2": y}.get(self.activation)
        value = _dense(self.out1, g) if value is None else value
        return value * jax.nn.sigmoid(_dense(self.out2, g))


def _dense(layer: nnx.Linear, x: Array) -> Array:
    return x @ layer.kernel[...] + layer.bias[...]


def naive_twin(model: Classifier) -> Classifier:
    """Return a naive model with the same parameters, without dropout."""
    config = dataclasses.replace(model.config, dropout=0.0)
    twin = Classifier(config, rngs=nnx.Rngs(0))
    twin.blocks = nnx.List([NaiveBlock(config, n, rngs=nnx.Rngs(0)) for n in config.state_sizes])
    nnx.update(twin, nnx.state(model))
    return twin
