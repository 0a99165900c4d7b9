"""The features of a selective layer, for the surgeon and the refit.

The gates make the output of an S6 layer a linear function of fixed numbers after all. With s = silu(z) it is

    y = W (s ∘ D x) + Σ_r Σ_m φ^r_mm,        φ^r_nm = C^r[n] W (s ∘ h^r[:, m]),

for all steps t. So the product φ_nm of state m and row n of the output gates is a feature of H numbers, and N features
in each direction belong to a state. New rows C'[m] = Σ_n M[m, n] C[n], which are new rows of x_proj, make the output
Σ_mn M[m, n] φ_nm. M of all ones on the diagonal is the layer as it is. Features are flattened from (R, N, m).

This is the layout of `features` with 2 replaced by N, one channel and one output, because all numbers of φ share M.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from aire.pruning import gram
from aire.ssm.selective_scan import Form, by_platform, einsum, in_chunks

Sums = dict[str, Array]


def sums(
    layer: Any,
    index: Int[Array, "m"],
    u: Float[Array, "B L H"],
    weights: Float[Array, "S B L"],
    y: Float[Array, "B L H"] | None = None,
) -> Sums:
    """Sums over steps of the products of features, `zz` (S, F, F), inside a compiled function.

    No array holds the states of all steps.

    Args:
        layer: an S6 layer.
        index: the states to use; n for none, whose features are zeros.
        u: its inputs.
        weights: 1 where a step belongs to a set, 0 elsewhere.
        y: outputs that the layer should have. With them, the result has also `zy` (S, F) and `yy` (S,), the products
            with what y has besides W (s ∘ D x), and `energy` (S,), that of y.
    """
    x, z, _ = layer.inputs(u, layer.initial_state(u.shape[0]).conv)
    gates, A, s = layer.gates(x), layer.eigenvalues(), jax.nn.silu(z)
    arrays = [x, gates.Delta, gates.B, jnp.moveaxis(gates.C, 0, 2), s, jnp.moveaxis(weights, 0, 2)]
    if y is not None:
        arrays.append(y - layer.without_states(x, z))
    arrays = [a.astype(A.dtype) for a in arrays]
    run = functools.partial(_sums, reverse=layer.reverse)
    found = by_platform(run, None, A, layer.out_proj[...], index, *arrays)
    if y is not None:
        found["energy"] = einsum("sbl,blh->s", weights, y.astype(A.dtype) ** 2)
    return found


def _sums(form: Form, A: Array, W: Array, index: Array, *arrays: Array, reverse: tuple[bool, ...]) -> Sums:
    def add(*rows: Array) -> Sums:
        return _of_rows(form, A, W, index, rows, reverse)

    return gram.sum_chunks(add, form.rows(arrays[0].shape[0], len(reverse) * A.size), arrays)


def _of_rows(
    form: Form, A: Array, W: Array, index: Array, arrays: tuple[Array, ...], reverse: tuple[bool, ...]
) -> Sums:
    """The sums of a few sequences, chunk by chunk of time. A pass before finds the states at each chunk's border."""
    R, N, (B, L, *_) = len(reverse), A.shape[0], arrays[0].shape
    chunks = tuple(in_chunks(a.reshape(B, L, -1)) for a in arrays)

    def start(h: Array, chunk: tuple[Array, ...], backward: bool) -> tuple[Array, Array]:
        return _states(form, A, chunk, h, backward)[1], h

    starts = [
        lax.scan(functools.partial(start, backward=backward), jnp.zeros((B, *A.shape)), chunks[:3], reverse=backward)[1]
        for backward in reverse
    ]

    def chunk_sums(given: tuple) -> Sums:
        starts, (x, Delta, gate, C, s, weights, *rest) = given
        runs = zip(starts, reverse, strict=True)
        states = [_states(form, A, (x, Delta, gate), h, backward)[0] for h, backward in runs]
        h = jnp.take(jnp.stack(states, axis=2), index, axis=3, mode="fill", fill_value=0)  # (K, B, R, m, D)
        V = einsum("hd,kbd,kbrmd->kbrmh", W, s, h)
        C = C.reshape(*C.shape[:2], R, N)
        CC = einsum("kbrn,kbql->kbrqnl", C, C)
        VV = einsum("kbs,kbrmh,kbqjh->skbrqmj", weights, V, V)
        found = {"zz": einsum("skbrqmj,kbrqnl->srnmqlj", VV, CC)}
        if rest:
            (e,) = rest
            Ve = einsum("kbs,kbrmh,kbh->skbrm", weights, V, e)
            found |= {"zy": einsum("skbrm,kbrn->srnm", Ve, C), "yy": einsum("kbs,kbh->s", weights, e**2)}
        return found

    total = gram.sum_scan(chunk_sums, (starts, chunks))
    F = R * N * index.size
    shapes = {"zz": (F, F), "zy": (F,), "yy": ()}
    return {name: a.reshape(len(a), *shapes[name]) for name, a in total.items()}


def _states(form: Form, A: Array, chunk: tuple[Array, ...], h: Array, backward: bool) -> tuple[Array, Array]:
    """The states at every step of a chunk (K, B, N, D), and those after it in the order of the direction."""
    x, Delta, B = (a[::-1] if backward else a for a in chunk)
    v = Delta * x
    p, last = form.states(A, Delta, v, B, h)
    h = p + B[..., None] * v[:, :, None]
    return h[::-1] if backward else h, last
