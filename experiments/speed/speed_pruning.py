"""Scoring, selecting and cutting: a full-size network, then each step against the number of states."""

from collections.abc import Callable, Mapping

import jax
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire.models import Classifier, ModelConfig
from aire.ssm import S4D, S4DConfig, S5Config
from experiments.speed.table import Table
from experiments.timing import interleaved

_LAYERS, _PER_CHANNEL = 10, 100  # of the banks below


class Banks(nnx.Module):
    """S4D layers with any number of states in all."""

    def __init__(self, states: int):
        per_layer = states // _LAYERS
        layer = nnx.jit(
            lambda: S4D(max(1, per_layer // _PER_CHANNEL), per_layer, S4DConfig(init="lin"), rngs=nnx.Rngs(0))
        )()
        self.layers = nnx.List([nnx.clone(layer) for _ in range(_LAYERS)])


def pruning_table(config: ConfigDict) -> Table:
    """Measure each step of pruning, compiled."""
    n = config.network
    options = ModelConfig(1, n.d_model, 10, (n.states,) * n.layers, S5Config(bidirectional=True))
    model = Classifier(options, rngs=nnx.Rngs(0))
    everything = {"prune, checks and report included": lambda: nnx.state(aire.prune(model, 0.6).model)}
    seconds = interleaved(_steps(model) | everything, config.repetitions)
    table = Table("step", "size", "ms")
    for name, s in seconds.items():
        table.add(name, f"S5, {n.layers} layers of {n.states} states, H {n.d_model}", f"{1e3 * s:.2f}")
    for count in config.state_counts:
        seconds = interleaved(_steps(Banks(count)), min(3, config.repetitions))
        size = f"S4D, {count:,} states in {_LAYERS} layers"
        for name, s in seconds.items():
            table.add(name, size, f"{1e3 * s:.2f}")
        print(f"{size}: {sum(seconds.values()):.2f} s", flush=True)
    return table


def _steps(model: nnx.Module) -> Mapping[str, Callable[[], object]]:
    scores = aire.score(model)
    keep = aire.select(scores, ratio=0.6)
    return {
        "score and normalise": lambda: aire.score(model),
        "select": lambda: aire.select(scores, ratio=0.6),
        "cut": lambda: jax.tree.leaves(nnx.state(aire.cut(model, keep))),
    }
