"""The S6 model of the PyPI package typeseg, which labels each byte of a text with a language or format.

It was trained by others. Its layers differ from Mamba's: their convolution sees two steps ahead, both directions share
one C, and B and C have biases. So its layer is a subclass of S6, of the size of the differences.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from aire.convert.arrays import check_shapes, count_layers, shape_of
from aire.io.weights import set_arrays
from aire.ssm import S6, S6Config
from aire.ssm.s6 import Gates
from aire.ssm.s6_parameters import split_x_proj

_DELTA_FLOOR = 1e-4  # added to each time step
_PAD = 1, 2  # zeros before and after the sequence, for a convolution of 4 steps
_EPSILON = 1e-6  # of its layer norms
_BLOCK = "CheckpointMambaBlock1D_"


class TypesegLayer(S6):
    """S6 with biases of B and C, and a convolution that sees two steps ahead."""

    STATE_AXIS: ClassVar = {**S6.STATE_AXIS, "B_bias": 0, "C_bias": 1}
    READOUT: ClassVar = ("x_proj_C", "C_bias")

    B_bias: nnx.Param
    C_bias: nnx.Param

    def __init__(self, d_model: int, n_states: int, config: S6Config, *, rngs: nnx.Rngs):
        super().__init__(d_model, n_states, config, rngs=rngs)
        self.B_bias = nnx.Param(jnp.zeros(n_states, jnp.float32))
        self.C_bias = nnx.Param(jnp.zeros((len(self.reverse), n_states), jnp.float32))

    def inputs(self, u: Array, before: Array) -> tuple[Array, Array, Array]:
        x, z = jnp.split(u @ self.in_proj[...].T + self.in_proj_bias[...][None, None], 2, axis=-1)
        padded = jnp.pad(x, ((0, 0), _PAD, (0, 0)))
        taps = [self.conv_weight[:, k][None, None] * padded[:, k : k + x.shape[1]] for k in range(4)]
        return jax.nn.silu(sum(taps) + self.conv_bias[...][None, None]), z, before

    def gates(self, x: Array) -> Gates:
        Delta, B, C = super().gates(x)
        return Gates(Delta + _DELTA_FLOOR, B + self.B_bias[...][None, None], C + self.C_bias[...][:, None, None])

    def readout(self) -> Array:
        """The map from x and 1 to C, (R, D + 1, N)."""
        return jnp.concatenate([super().readout(), self.C_bias[...][:, None]], axis=1)

    def _parts_of_readout(self, C: Array) -> dict[str, Array]:
        return {**super()._parts_of_readout(C[:, :-1]), "C_bias": C[:, -1]}

    def mask(self, keep: Any) -> Self:
        masked = super().mask(keep)
        return masked.with_parameters({"B_bias": jnp.where(jnp.asarray(keep), self.B_bias[...], 0)})


class TypesegBlock(nnx.Module):
    """x + layer(LayerNorm(x))."""

    def __init__(self, d_model: int, n_states: int, config: S6Config, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(d_model, epsilon=_EPSILON, use_fast_variance=False, rngs=rngs)
        self.ssm = TypesegLayer(d_model, n_states, config, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.ssm(self.norm(x))


class Typeseg(nnx.Module):
    """Embedding, blocks, norm and head: logits (B, L, labels) of tokens (B, L)."""

    def __init__(self, tokens: int, d_model: int, labels: int, depth: int, n_states: int, config: S6Config):
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(tokens, d_model, rngs=rngs)
        self.blocks = nnx.List([TypesegBlock(d_model, n_states, config, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(d_model, epsilon=_EPSILON, use_fast_variance=False, rngs=rngs)
        self.head = nnx.Linear(d_model, labels, precision="highest", rngs=rngs)

    def __call__(self, x: Array, lengths: Array | None = None, *, rngs: nnx.Rngs | None = None) -> Array:
        h = jnp.take(self.embedding.embedding[...], x, axis=0)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def import_typeseg(arrays: Mapping[str, np.ndarray]) -> Typeseg:
    """Build the model from the arrays of the package's file, with "/" or "__" between the names.

    Raises:
        UserError: names are missing or unknown, or shapes do not fit each other.
    """
    given = {name.replace("__", "/"): np.asarray(a, np.float32) for name, a in arrays.items()}
    tokens, H = shape_of(given, "Embed_0/embedding", "V, H")
    D, N = shape_of(given, f"{_BLOCK}0/A_log", "D, N")
    R, _ = shape_of(given, f"{_BLOCK}0/Dense_2/kernel", "R, D")
    _, labels = shape_of(given, "Dense_0/kernel", "H, labels")
    depth = count_layers(given, _BLOCK + r"([0-9]{1,3})/")
    check_shapes(given, _shapes(tokens, H, D, N, R, labels, depth), "the typeseg file")
    config = S6Config(expand=D // H, dt_rank=R, use_bias=True, bidirectional=True)
    model = Typeseg(tokens, H, labels, depth, N, config)
    ours = {"embedding/embedding": given["Embed_0/embedding"], **_norm("norm", given, "LayerNorm_0")}
    ours |= {"head/kernel": given["Dense_0/kernel"], "head/bias": given["Dense_0/bias"]}
    for i in range(depth):
        prefix = f"{_BLOCK}{i}/"
        ours |= _norm(f"blocks/{i}/norm", given, f"{prefix}LayerNorm_0")
        layer = {name.removeprefix(prefix): a for name, a in given.items() if name.startswith(prefix)}
        ours |= {f"blocks/{i}/ssm/{name}": a for name, a in _layer(layer, N, R).items()}
    set_arrays(model, ours, "the typeseg file")
    model.eval()
    return model


def _norm(name: str, given: Mapping[str, np.ndarray], theirs: str) -> dict[str, np.ndarray]:
    return {f"{name}/{part}": given[f"{theirs}/{part}"] for part in ("scale", "bias")}


def _layer(given: Mapping[str, np.ndarray], N: int, R: int) -> dict[str, np.ndarray]:
    """The arrays of a layer. Both directions get the one C of the file, and half of their two D u."""
    rows, bias = given["Dense_1/kernel"].T, given["Dense_1/bias"]
    _, B_bias, C_bias = np.split(bias, [R, R + N])
    return {
        **split_x_proj(np.concatenate([rows, rows[R + N :]]), R, 2),
        "in_proj": given["Dense_0/kernel"].T,
        "in_proj_bias": given["Dense_0/bias"],
        "conv_weight": given["Conv_0/kernel"][:, 0].T,
        "conv_bias": given["Conv_0/bias"],
        "dt_proj": given["Dense_2/kernel"].T,
        "dt_bias": given["Dense_2/bias"] + bias[:R] @ given["Dense_2/kernel"],
        "A_log": given["A_log"],
        "D": 2 * given["D"],
        "B_bias": B_bias,
        "C_bias": np.stack([C_bias, C_bias]),
        "out_proj": given["Dense_3/kernel"].T,
        "out_proj_bias": given["Dense_3/bias"],
    }


def _shapes(tokens: int, H: int, D: int, N: int, R: int, labels: int, depth: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"Embed_0/embedding": (tokens, H), "Dense_0/kernel": (H, labels)}
    shapes |= {"Dense_0/bias": (labels,), "LayerNorm_0/scale": (H,), "LayerNorm_0/bias": (H,)}
    layer = {"Dense_0": (H, 2 * D), "Dense_1": (D, R + 2 * N), "Dense_2": (R, D), "Dense_3": (D, H)}
    for i in range(depth):
        prefix = f"{_BLOCK}{i}/"
        shapes |= {f"{prefix}{name}/kernel": shape for name, shape in layer.items()}
        shapes |= {f"{prefix}{name}/bias": shape[1:] for name, shape in layer.items()}
        shapes |= {f"{prefix}Conv_0/kernel": (4, 1, D), f"{prefix}Conv_0/bias": (D,)}
        shapes |= {f"{prefix}A_log": (D, N), f"{prefix}D": (D,)}
        shapes |= {f"{prefix}LayerNorm_0/{part}": (H,) for part in ("scale", "bias")}
    return shapes
