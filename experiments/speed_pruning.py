"""Scoring, selecting and cutting: a full-size network, then selection alone against the number of states."""

import jax
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire.models import Classifier, ModelConfig
from aire.pruning.scores import prefix_normalize
from aire.pruning.selection import select
from aire.ssm import S5Config
from experiments.timing import interleaved

Rows = list[tuple[str, ...]]


def pruning_rows(config: ConfigDict) -> Rows:
    """Milliseconds of each step of pruning, compiled."""
    n = config.network
    options = ModelConfig(1, n.d_model, 10, (n.states,) * n.layers, S5Config(bidirectional=True))
    model = Classifier(options, rngs=nnx.Rngs(0))
    modes, scores = aire.modes(model), aire.score(model)
    keep = aire.select(scores, ratio=0.6)
    score_fn = aire.pruning.scores.get("aire")
    seconds = interleaved(
        {
            "score and normalise": lambda: [prefix_normalize(score_fn(m)) for m in modes.values()],
            "select": lambda: select(scores, ratio=0.6),
            "cut": lambda: nnx.state(aire.cut(model, keep)),
            "prune, checks and report included": lambda: nnx.state(aire.prune(model, 0.6).model),
        },
        config.repetitions,
    )
    network = f"{n.layers} layers of {n.states} states, H {n.d_model}"
    rows: Rows = [("step", "size", "ms"), *((name, network, f"{1e3 * s:.2f}") for name, s in seconds.items())]
    for count in config.state_counts:
        energies = {f"layers/{i}": jax.random.exponential(jax.random.key(i), (count // 10,)) for i in range(10)}
        seconds = interleaved({"": lambda e=energies: normalize_and_select(e)}, min(5, config.repetitions))
        rows.append(("normalise and select", f"{count:,} states in 10 layers", f"{1e3 * seconds['']:.2f}"))
    return rows


def normalize_and_select(energies: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return select({layer: prefix_normalize(e) for layer, e in energies.items()}, ratio=0.6)
