"""Mamba as a language model: embedding, blocks, norm and head; its loss; generation step by step."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Integer, Num, PRNGKeyArray

from aire.models.classifier import AnyArray, check_range
from aire.models.config import DTYPES, MAX_CLASSES, MAX_LAYERS, ModelConfig
from aire.ssm import S6Config, kind_of, ssm_config
from aire.ssm.base import MAX_FEATURES, MAX_STATES, check_rngs
from aire.utils.arguments import follow, instance, numbers
from aire.utils.checks import Rule, boolean, check, choice, integer, make, number, several
from aire.utils.errors import UserError

State = list[Any]  # of every layer, as its `initial_state` makes them


@dataclasses.dataclass(frozen=True)
class MambaLMConfig:
    """The shape of a `MambaLM`. A pruned model differs only in `state_sizes`.

    Attributes:
        kind: "mamba_lm", the name of this kind of model in files.
        vocabulary: number of tokens V.
        d_model: features H.
        state_sizes: states of each layer; the length is the depth.
        ssm: options of the layers.
        tied: whether the head is the transposed embedding.
        norm_epsilon: ε of the norms.
        dtype: dtype of the activations inside the layers, as in `ModelConfig`.
    """

    kind: str = dataclasses.field(default="mamba_lm", init=False)
    vocabulary: int
    d_model: int
    state_sizes: tuple[int, ...]
    ssm: Any = dataclasses.field(default_factory=S6Config)
    tied: bool = True
    norm_epsilon: float = 1e-5
    dtype: str = "float32"

    def __post_init__(self):
        sizes: object = self.state_sizes
        if isinstance(sizes, list):  # as in JSON
            object.__setattr__(self, "state_sizes", tuple(sizes))
        check(
            self,
            vocabulary=integer(1, MAX_CLASSES),
            d_model=integer(1, MAX_FEATURES),
            state_sizes=several(integer(0, MAX_STATES), 1, MAX_LAYERS),
            tied=boolean(),
            norm_epsilon=number(above=0),
            dtype=choice(DTYPES),
        )
        instance("ssm", self.ssm, kind_of(self.ssm).config, f"a {kind_of(self.ssm).config.__name__}")
        if getattr(self.ssm, "bidirectional", False):
            raise UserError("ssm.bidirectional=True: a language model must not see the tokens that it predicts")

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes, each at most the number of numbers in the model's arrays."""
        return self.vocabulary, self.d_model, *self.state_sizes

    @classmethod
    def from_dict(cls, fields: object) -> Self:
        """Invert `dataclasses.asdict`, also after a round trip through JSON."""
        if not isinstance(fields, Mapping) or "ssm" not in fields:
            raise UserError(f"config {fields!r:.200}: expected a mapping with the fields of MambaLMConfig")
        own = {name: value for name, value in fields.items() if name != "kind"}
        return make(cls, {**own, "ssm": ssm_config(fields["ssm"])})


class MambaLM(nnx.Module):
    """logits = head(RMSNorm(blocks(embedding(tokens)))) (Gu and Dao, Mamba, 2023, and its reference code).

    Embedding, residual sums, norms and head are float32.
    """

    lm_head: nnx.Linear

    def __init__(self, config: MambaLMConfig, *, rngs: nnx.Rngs):
        instance("config", config, MambaLMConfig, "an aire.MambaLMConfig")
        check_rngs(rngs)
        V, H = config.vocabulary, config.d_model
        # `config` reads sizes and options from the layers, because a copy here would be wrong after a cut.
        self._options = dataclasses.replace(config, state_sizes=(0,) * len(config.state_sizes))
        self.embedding = nnx.Embed(V, H, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        make_block, block_config = kind_of(config.ssm).make_block, _block_config(config)
        self.blocks = nnx.List([make_block(block_config, n, rngs=rngs) for n in config.state_sizes])
        for block in self.blocks:
            block.norm.epsilon = config.norm_epsilon
        self.norm_f = nnx.RMSNorm(H, epsilon=config.norm_epsilon, rngs=rngs)
        if not config.tied:
            self.lm_head = nnx.Linear(H, V, use_bias=False, precision="highest", rngs=rngs)

    @property
    def config(self) -> MambaLMConfig:
        """The config of a model of these sizes. Raise UserError if the layers have different options."""
        found = [block.ssm for block in self.blocks]
        if len({layer.config for layer in found}) > 1:
            raise UserError("the layers of this model have different options: no one config describes it")
        return dataclasses.replace(
            self._options, state_sizes=tuple(layer.n_states for layer in found), ssm=found[0].config
        )

    def __call__(
        self, x: Num[AnyArray, "..."], lengths: Int[AnyArray, "..."] | None = None, *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B L V"]:
        """Compute the logits of the token that follows each step.

        Args:
            x: integer tokens (B, L).
            lengths: accepted because calibration passes them, and not needed: no step depends on later ones.
            rngs: not needed; the model has no dropout.
        Raises:
            UserError: tokens of another shape or dtype, or outside the vocabulary. Under `jax.jit` values are not
                checked, and the embedding of a token outside is NaN.
        """
        h = self._embed(self.check_inputs(x))
        for block in self.blocks:
            h = block(h, rngs)
        return self._head(h)

    def check_inputs(self, x: Num[AnyArray, "..."], lengths: object = None) -> Integer[Array, "B L"]:
        """Return the tokens as an array. Raise UserError unless they are integers of the vocabulary, (B, L)."""
        x = numbers("x", x, kinds="iu", expected="integer tokens (B, L)")
        if x.ndim != 2 or not x.shape[0] * x.shape[1]:
            raise UserError(f"x has shape {list(x.shape)}: expected tokens (B, L), at least one step of one")
        last = self._options.vocabulary - 1
        check_range("tokens", x, 0, last, f"this model's vocabulary is 0…{last}")
        return jnp.asarray(x)

    def start(self, batch: int) -> State:
        """The state before the first token of `batch` sequences."""
        return [block.ssm.initial_state(batch) for block in self.blocks]

    def step(self, x: Integer[Array, "B"], state: State) -> tuple[Float[Array, "B V"], State]:
        """Advance by one token: return the logits of the next one and the new state."""
        h, new = self._embed(x), []
        for block, own in zip(self.blocks, state, strict=True):
            h, own = block.step(h, own)
            new.append(own)
        return self._head(h), new

    def scan(self, x: Integer[Array, "B L"], state: State) -> tuple[Float[Array, "B L V"], State]:
        """Advance by L tokens, as `step` does L times."""
        h, new = self._embed(x), []
        for block, own in zip(self.blocks, state, strict=True):
            h, own = block.scan(h, own)
            new.append(own)
        return self._head(h), new

    def generate(
        self,
        prompt: Num[AnyArray, "..."],
        n: int,
        *,
        temperature: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Integer[Array, "B n"]:
        """Continue prompts by n tokens each: one scan of the prompt, then a step for each token.

        Args:
            prompt: integer tokens (B, L), all prompts of one length.
            n: number of tokens.
            temperature: of the sampling; 0 takes the most probable token.
            key: of the sampling; not needed at temperature 0.
        Raises:
            UserError: as in a call, a number out of range, or a temperature without a key.
        """
        x = self.check_inputs(prompt)
        follow("n", n, integer(1, 2**31))
        follow("temperature", temperature, number(0))
        follow(
            "key",
            key,
            Rule("a key, as of jax.random.key, for a temperature > 0", lambda k: k is not None or not temperature),
        )
        graphdef, state = nnx.split(self)
        keys = jax.random.split(jax.random.key(0) if key is None else key, n)
        return _generate(graphdef, state, x, keys, jnp.float32(temperature), greedy=not temperature)

    def _embed(self, x: Integer[Array, "*B"]) -> Float[Array, "*B H"]:
        return jnp.take(self.embedding.embedding[...], x, axis=0, mode="fill")

    def _head(self, h: Float[Array, "*B H"]) -> Float[Array, "*B V"]:
        h = self.norm_f(h)
        if not self._options.tied:
            return self.lm_head(h)
        return jnp.matmul(h, self.embedding.embedding[...].T, precision="highest")


@functools.partial(jax.jit, static_argnums=0, static_argnames="greedy")
def _generate(
    graphdef: nnx.GraphDef, state: nnx.State, x: Array, keys: Array, temperature: Array, *, greedy: bool
) -> Integer[Array, "B n"]:
    model = nnx.merge(graphdef, state)

    def choose(logits: Array, key: Array) -> Array:
        chosen = jnp.argmax(logits, axis=-1) if greedy else jax.random.categorical(key, logits / temperature)
        return chosen.astype(jnp.int32)

    def advance(carry: tuple[Array, State], key: Array) -> tuple[tuple[Array, State], Array]:
        logits, states = model.step(*carry)
        token = choose(logits, key)
        return (token, states), token

    logits, states = model.scan(x, model.start(x.shape[0]))
    first = choose(logits[:, -1], keys[0])
    _, others = jax.lax.scan(advance, (first, states), keys[1:])
    return jnp.concatenate([first[:, None], others.T], axis=1)


def next_token_loss(model: MambaLM, x: Num[AnyArray, "..."]) -> Float[Array, ""]:
    """The mean cross-entropy, in nats, of each token given those before it. The first is not predicted.

    Args:
        model: the model.
        x: integer tokens (B, L), at least two of each sequence.
    Raises:
        UserError: as in a call of the model, or sequences of one token.
    """
    x = model.check_inputs(x)
    if x.shape[1] < 2:
        raise UserError(f"x has shape {list(x.shape)}: expected at least two tokens of each sequence")
    return optax.softmax_cross_entropy_with_integer_labels(model(x[:, :-1]), x[:, 1:]).mean()


def _block_config(config: MambaLMConfig) -> ModelConfig:
    """What the block of a classifier reads."""
    options: dict[str, Any] = {"activation": "gelu", "batchnorm": False, "dtype": config.dtype}
    V = config.vocabulary
    return ModelConfig(V, config.d_model, V, config.state_sizes, config.ssm, **options)
