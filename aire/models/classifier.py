"""The classifier: encoder, blocks, pooling, and a head for one document or two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from aire.models.block import Linear, checkpointed
from aire.models.config import ModelConfig
from aire.ssm import kind_of
from aire.ssm.base import check_rngs
from aire.utils.arguments import instance, is_traced, numbers
from aire.utils.errors import UserError
from aire.utils.traced import require

AnyArray = Array | np.ndarray


class RetrievalHead(nnx.Module):
    """Two-layer perceptron on [a, b, a − b, a ∘ b] of two documents (Tay et al., Long Range Arena, 2021)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.layer1 = nnx.Linear(4 * config.d_model, config.d_model, precision="highest", rngs=rngs)
        self.layer2 = nnx.Linear(config.d_model, config.d_output, precision="highest", rngs=rngs)

    def __call__(self, pooled: Float[Array, "documents H"]) -> Float[Array, "B classes"]:
        """Logits from the pooled features of the first documents of all pairs, then those of the second documents."""
        a, b = jnp.split(pooled, 2)
        return self.layer2(jax.nn.gelu(self.layer1(jnp.concatenate([a, b, a - b, a * b], axis=-1))))


class Classifier(nnx.Module):
    """A stack of state space blocks with a linear encoder and a pooled head (S5 paper, appendix G.1).

    A new model is in training mode, where a call changes the statistics of batch norm. Call `eval()` for inference.
    Loaded and imported models are in evaluation mode.
    """

    decoder: RetrievalHead | nnx.Linear

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        instance("config", config, ModelConfig, "an aire.ModelConfig")
        check_rngs(rngs)
        # `config` reads sizes and options from the layers, because a copy here would be wrong after a cut.
        self.deterministic = False  # `train` and `eval` set it
        self._options = dataclasses.replace(config, state_sizes=(0,) * len(config.state_sizes))
        self.encoder = Linear(config.d_input, config.d_model, rngs=rngs)
        make_block = kind_of(config.ssm).make_block
        self.blocks = nnx.List([make_block(config, n, rngs=rngs) for n in config.state_sizes])
        if config.retrieval:
            self.decoder = RetrievalHead(config, rngs=rngs)
        else:
            self.decoder = nnx.Linear(config.d_model, config.d_output, precision="highest", rngs=rngs)

    @property
    def config(self) -> ModelConfig:
        """The config of a model of these sizes.

        Raises:
            UserError: the layers have different options, so no config describes them.
        """
        ssm_layers = [block.ssm for block in self.blocks]
        if len({layer.config for layer in ssm_layers}) > 1:
            raise UserError("the layers of this model have different options: no one config describes it")
        sizes = tuple(layer.n_states for layer in ssm_layers)
        return dataclasses.replace(self._options, state_sizes=sizes, ssm=ssm_layers[0].config)

    def __call__(
        self, x: Num[AnyArray, "..."], lengths: Int[AnyArray, "..."] | None = None, *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B classes"]:
        """Compute the logits of a batch.

        Args:
            x: (B, L, d_input) float, or (B, L) integer tokens. Two documents: (B, 2, L, d_input) or (B, 2, L), or the
                reference's stacked form: 2B sequences, the first documents of all pairs before the second documents.
            lengths: true lengths (B,), or (B, 2), of padded sequences. The layers process padding like any other input,
                as in the S5 reference; only the pooling skips it.
            rngs: source of the `dropout` key; required in training mode with dropout.
        Raises:
            UserError: tokens outside the vocabulary, lengths outside 1…L, or a wrong shape or dtype. Under `jax.jit`,
                only shapes and dtypes are checked: with wrong values the logits are wrong or NaN. `aire.checked` finds
                them there, too.
        """
        options = self._options
        self._check_rngs(rngs)
        x, lengths = self.check_inputs(x, lengths)
        if x.ndim == 2:  # int32, because `one_hot` counts in the dtype of the tokens and uint8 ends at 255
            x = jax.nn.one_hot(x.astype(jnp.int32), options.d_input)
        h = self.encoder(jnp.asarray(x)).astype(options.dtype)
        for block in self.blocks:
            h = checkpointed(block, h, rngs) if options.remat and not self.deterministic else block(h, rngs)
        return self.decoder(pool(h.astype(jnp.float32), lengths, options.pooling))

    def check_inputs(
        self, x: Num[AnyArray, "..."], lengths: Int[AnyArray, "..."] | None
    ) -> tuple[Num[AnyArray, "..."], Int[AnyArray, "..."] | None]:
        """Return the inputs of a call as arrays, documents stacked. Raise UserError as a call does."""
        x = numbers("x", x, expected="floats or integer tokens")
        lengths = None if lengths is None else numbers("lengths", lengths, kinds="iu", expected="integers")
        if self._options.retrieval:
            x, lengths = stack_documents(x, lengths)
        self._check(x, lengths)
        return x, lengths

    def _check_rngs(self, rngs: nnx.Rngs | None) -> None:
        if rngs is not None:
            instance("rngs", rngs, nnx.Rngs, "flax.nnx.Rngs")
        has_keys = callable(getattr(rngs, "dropout", None))
        drops = (
            [getattr(block, "drop", None) for block in self.blocks] if self._options.dropout and not has_keys else []
        )
        if any(drop and not drop.deterministic for drop in drops):
            raise UserError("a model in training mode with dropout: pass rngs=nnx.Rngs(dropout=…), or call eval()")

    def _check(self, x: AnyArray, lengths: AnyArray | None) -> None:
        d_input = self._options.d_input
        tokens = x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer)
        if not tokens and (x.ndim != 3 or x.shape[-1] != d_input):
            raise UserError(
                f"input {x.dtype}{list(x.shape)}: expected floats (B, L, {d_input}) or integer tokens (B, L)"
            )
        if not (x.shape[0] and x.shape[1]):
            raise UserError(f"input {x.dtype}{list(x.shape)}: expected at least one sequence of at least one step")
        if self._options.retrieval and x.shape[0] % 2:
            raise UserError(f"input {x.dtype}{list(x.shape)}: expected two documents for each pair, stacked")
        if self._options.pooling == "masked_mean" and lengths is None:
            raise UserError("this model pools by masked_mean: pass the true lengths of the sequences")
        if tokens:
            check_range("tokens", x, 0, d_input - 1, f"this model's vocabulary is 0…{d_input - 1}")
        if lengths is not None:
            if lengths.shape != x.shape[:1]:
                raise UserError(f"lengths {list(lengths.shape)} for {x.shape[0]} sequences: expected one for each")
            check_range("lengths", lengths, 1, x.shape[1], f"expected 1…{x.shape[1]}, the padded length")


def stack_documents(
    x: Num[AnyArray, "..."], lengths: Int[AnyArray, "..."] | None
) -> tuple[Num[AnyArray, "..."], Int[AnyArray, "..."] | None]:
    """Stack pairs of documents to 2B sequences, the first documents before the second documents.

    Args:
        x: tokens (B, 2, L) or floats (B, 2, L, d_input). Stacked documents are returned unchanged.
        lengths: (B, 2), (2B,) or None.
    """
    if x.ndim == (3 if jnp.issubdtype(x.dtype, jnp.integer) else 4):
        if x.shape[1] != 2:
            raise UserError(f"input {x.dtype}{list(x.shape)}: expected two documents, (B, 2, L) or (B, 2, L, d_input)")
        x = jnp.concatenate([x[:, 0], x[:, 1]])
    if lengths is not None and lengths.ndim == 2 and lengths.shape[1] == 2:
        lengths = jnp.concatenate([lengths[:, 0], lengths[:, 1]])
    return x, lengths


def check_range(name: str, x: AnyArray, low: int, high: int, expected: str) -> None:
    """Raise UserError unless all values are in a range. If they are traced, only `aire.checked` finds it."""
    if is_traced(x):
        require(jnp.all((x >= low) & (x <= high)), f"{name} outside {low}…{high}: {expected}")
        return
    values = np.asarray(x)  # because a jnp operation on a closed-over array would be staged out
    if not (values.min() >= low and values.max() <= high):
        raise UserError(f"{name} in {values.min()}…{values.max()}: {expected}")


def pool(x: Float[Array, "B L H"], lengths: Int[AnyArray, "B"] | None, pooling: str) -> Float[Array, "B H"]:
    """The mean over the first `lengths` steps, or the last of them; over all steps if None."""
    if pooling == "last":
        return x[:, -1] if lengths is None else jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
    steps = jnp.arange(x.shape[1])[None]
    mask = jnp.ones(x.shape[:2], bool) if lengths is None else steps < lengths[:, None]
    # Multiplies by the mask even if it is all ones, because XLA would fuse a plain mean with the block before it and
    # materialise every constant of that block as a full array.
    total = jnp.einsum("blh,bl->bh", x, mask.astype(x.dtype), precision="highest")  # not TF32
    return total / mask.sum(axis=1, keepdims=True).astype(x.dtype)
