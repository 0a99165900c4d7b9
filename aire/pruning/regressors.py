"""What the outputs of a layer are regressed on, for the refit and `reconstruct`: the features of its kept states."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from aire.pruning import features, gram, selective
from aire.pruning.regression import RealReadout, Sums
from aire.pruning.surgery import Readout
from aire.ssm import StateSpaceLayer

# Maximum size of the features and their products computed at once, in numbers: 64 MiB.
_NUMBERS = 2**24


class Regressors:
    """The regressors of the kept states of a layer: their real features z and the inputs u, y = G z + D u.

    Args:
        layer: the layer, of its uncut size. Of its readout only that of a selective layer matters.
        keep: the kept states.
    Attributes:
        index: the kept state in each slot of the cut layer's features, n in an empty one. The number m of slots is
            rounded up to a quarter of the uncut layer's, so that few compilations serve all cuts.
    """

    index: Int[np.ndarray, "channels m"]

    def __init__(self, layer: Any, keep: Bool[np.ndarray, "n"]):
        self.layer = layer
        channel = np.asarray(layer.channels())
        kept, place = np.flatnonzero(keep), features.places(channel[keep])
        quarter = max(-(-features.extent(features.places(channel))[1] // 4), 1)
        m = -(-features.extent(place)[1] // quarter) * quarter
        channels = 1 if layer.SELECTIVE else layer.D.size // layer.readout().shape[1]
        self.index = np.full((channels, m), channel.size)
        self.index[tuple(place)] = kept

    def sums(self, data: Iterable[tuple[ArrayLike, ...]]) -> list[Sums]:
        """The sums of each set over batches, in float64.

        Args:
            data: tuples of the layer's inputs u and the outputs y to reach, both (B, L, H), the mask of true steps
                (B, L), and sets (S, B), 1 where a sequence belongs to a set.
        """
        split = nnx.split(self.layer)
        total: dict[str, Any] = {}
        for batch in data:
            for name, new in jax.device_get(_batch_sums(type(self), *split, jnp.asarray(self.index), *batch)).items():
                total[name] = total.get(name, 0) + np.asarray(new, np.float64)
        return self.expand(total)

    def readout(self, cut: Any) -> RealReadout:
        """The output map of the cut layer."""
        channels, m = self.index.shape
        D = np.asarray(cut.D[...], np.float64).reshape(channels, -1)
        return RealReadout(features.readout(cut.modes(), channels, m), D)

    def as_readout(self, new: RealReadout, cut: Any) -> Readout:
        """The inverse of `readout`: C and D of the cut layer, in its precision."""
        C = features.complex_readout(new.G, features.places(cut.channels()), len(cut.reverse), cut.output_scale)
        return Readout(C.astype(cut.readout().dtype), new.D.ravel().astype(cut.D.dtype))

    @staticmethod
    def batch_sums(
        layer: Any,
        index: Int[Array, "channels m"],
        u: Float[Array, "B L H"],
        y: Float[Array, "B L H"],
        mask: Float[Array, "B L"],
        sets: Float[Array, "S B"],
    ) -> dict[str, Array]:
        """Sums of one batch, from which `expand` computes those of the regression, inside a compiled function."""
        if gram.has_single_inputs(layer):
            return gram.blocks(layer, index, [u, y], mask.sum(axis=1).astype(jnp.int32), sets)
        (_, L, H), (C, m), dtype = u.shape, index.shape, layer.D.dtype
        F, outputs = 2 * len(layer.reverse) * m, H // C

        def add(u: Array, y: Array, mask: Array, sets: Array) -> dict[str, Array]:
            z = features.stack(layer.state_pairs(u), index) * mask[..., None, None]
            u, y = ((a.astype(dtype) * mask[..., None]).reshape(*a.shape[:2], C, outputs) for a in (u, y))

            def products(a: Array, b: Array) -> Array:
                # One for each sequence. One for each set, with zeros for all others, would take twice as long.
                return jnp.einsum("blcf,blcg->bcfg", a, b, precision="highest")

            of_z = {"zz": products(z, z), "zu": products(z, u), "zy": products(z, y)}
            new = {**of_z, "uu": (u * u).sum(axis=1), "uy": (u * y).sum(axis=1), "yy": (y * y).sum(axis=1)}
            return {name: jnp.tensordot(sets.T, a, axes=1, precision="highest") for name, a in new.items()}

        rows = _NUMBERS // (C * (F + 2 * outputs) * (L + F))
        return gram.sum_chunks(add, rows, (u, y, mask, sets.T))

    def expand(self, found: Mapping[str, np.ndarray]) -> list[Sums]:
        """The sums of the regression for each set, from `batch_sums` added over all batches."""
        if "blocks" in found:
            F = 2 * len(self.layer.reverse) * self.index.shape[1]
            outer = gram.expand(self.layer, self.index, found)
            zz, zu, zy = np.split(outer[..., :F, :], [F, F + 1], axis=-1)
            uu, uy, yy = (outer[..., i, j, None] for i, j in ((F, F), (F, F + 1), (F + 1, F + 1)))
            found = {"zz": zz, "zu": zu, "zy": zy, "uu": uu, "uy": uy, "yy": yy}
        energy = found["yy"].sum(axis=(1, 2))
        return [
            Sums(*parts)
            for parts in zip(*(found[name] for name in ("zz", "zu", "zy", "uu", "uy", "yy")), energy, strict=True)
        ]


class SelectiveRegressors(Regressors):
    """The regressors of a selective layer: the features φ of `selective`, without inputs, because D stays.

    G is M, which makes the new output gates of the kept states from all rows of the gates of `layer`.
    """

    def readout(self, cut: Any) -> RealReadout:
        """M of the cut layer: its gates in terms of the rows of `layer`, by least squares."""
        rows, own = (np.asarray(layer.readout(), np.float64) for layer in (self.layer, cut))
        M = np.zeros((*rows.shape[::2], self.index.shape[1]))  # (R, N, m)
        for m, old, new in zip(M, rows, own, strict=True):
            m[:, : new.shape[1]] = np.linalg.lstsq(old, new, rcond=None)[0]
        return RealReadout(M.reshape(1, 1, -1), np.zeros((1, 1)))

    def as_readout(self, new: RealReadout, cut: Any) -> Readout:
        """New rows of the output gates, and the old D."""
        rows = np.asarray(self.layer.readout(), np.float64)
        C = rows @ new.G.reshape(*rows.shape[::2], -1)[..., : cut.n_states]
        return Readout(C.astype(cut.D.dtype), np.asarray(cut.D[...]))

    @staticmethod
    def batch_sums(layer: Any, index: Array, u: Array, y: Array, mask: Array, sets: Array) -> dict[str, Array]:
        return selective.sums(layer, index[0], u, sets[:, :, None] * mask[None], y)

    def expand(self, found: Mapping[str, np.ndarray]) -> list[Sums]:
        zz, zy, yy = found["zz"][:, None], found["zy"][:, None, :, None], found["yy"][:, None, None]
        zu, uu, uy = np.zeros_like(zy), np.zeros_like(yy), np.zeros_like(yy)
        return [Sums(*parts) for parts in zip(zz, zu, zy, uu, uy, yy, found["energy"], strict=True)]


def regressors(layer: StateSpaceLayer, keep: Bool[np.ndarray, "n"]) -> Regressors:
    """The regressors of the kept states of a layer."""
    return (SelectiveRegressors if layer.SELECTIVE else Regressors)(layer, keep)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _batch_sums(
    kind: type[Regressors],
    graphdef: nnx.GraphDef,
    state: nnx.State,
    index: Int[Array, "channels m"],
    u: Float[Array, "B L H"],
    y: Float[Array, "B L H"],
    mask: Float[Array, "B L"],
    sets: Float[Array, "S B"],
) -> dict[str, Array]:
    """`batch_sums` of a layer. All layers of one size share its compilation."""
    return kind.batch_sums(nnx.merge(graphdef, state), index, u, y, mask, sets)
