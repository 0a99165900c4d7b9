"""Models of the benchmark and their passes, and models after cuts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

import aire
from aire.models import Classifier, ModelConfig
from aire.pruning import count_parameters
from aire.ssm import KINDS, ssm_config
from aire.training.optimizer import OptimizerConfig, make_optimizer
from aire.training.step import init_state, make_train_step, split_model
from experiments.speed.table import Table
from experiments.timing import Compiled, Prepared, compiled, forward, interleaved

OPTIMIZER = OptimizerConfig(lr=0.001, ssm_lr=0.001, weight_decay=0.01)
_ACTIVATIONS = {"s4d": "glu"}  # as in its reference; other kinds use "half_glu1"


class Shape(NamedTuple):
    """Sizes of a model and its batch. `states` are per layer, or per channel if the kind counts them so."""

    kind: str
    depth: int
    d_model: int
    states: int
    length: int
    batch: int

    def __str__(self) -> str:
        states = KINDS[self.kind].describe_states(self.states)
        return f"{self.kind}, {self.depth} × (H {self.d_model}, {states}), L {self.length}, B {self.batch}"


def make(shape: Shape, **options: Any) -> tuple[Classifier, dict[str, Array]]:
    """Return a new model of this shape, with more options of `ModelConfig`, and a batch of noise."""
    sizes = (KINDS[shape.kind].n_states(shape.states, shape.d_model),) * shape.depth
    ssm = ssm_config({"kind": shape.kind, "bidirectional": True})
    activation = _ACTIVATIONS.get(shape.kind, "half_glu1")
    config = ModelConfig(1, shape.d_model, 10, sizes, ssm, activation=activation, **options)
    model = Classifier(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (shape.batch, shape.length, 1))
    return model, {"x": x, "y": jnp.zeros(shape.batch, jnp.int32)}


def training(model: Classifier, batch: dict[str, Array], accumulate: int = 1) -> Prepared:
    """Compile the training step. Each call continues from the state of the last."""
    model.train()
    functions, *_ = split_model(model)
    optimizer = make_optimizer(OPTIMIZER, model, warmup_steps=1, total_steps=100)
    states = [init_state(model, optimizer, jax.random.key(0))]
    run = compiled(make_train_step(functions, optimizer, accumulate=accumulate), states[0], batch)

    def step():
        states[0], metrics = run(states[0], batch)
        return metrics

    return run, step


PASSES = {"forward": forward, "training step": training}


def difference(a: Array | dict[str, Array], b: Array | dict[str, Array]) -> float:
    """Return the largest difference of two passes: of class log-probabilities, given logits or log-probabilities, or of
    the losses of training steps, given losses or metrics."""
    if isinstance(b, dict):
        return abs(float(a["loss"] if isinstance(a, dict) else a) - float(b["loss"]))
    return float(jnp.abs(jax.nn.log_softmax(a) - jax.nn.log_softmax(b)).max())


def cut_table(config: ConfigDict) -> Table:
    """Measure a model's passes against the share of states kept, chosen at random; the last cut keeps none.

    The last cut is the floor for S5. S4D without states also skips its convolution. Operations are those of the
    forward pass: they bound the time that can be saved.
    """
    columns = [c for name in PASSES for c in (f"{name}, ms", f"{name}, of full", f"{name}, MiB")]
    table = Table("model", "kept", "states", "parameters", "operations, of full", *columns)
    for shape in map(Shape._make, config.cut.models):
        model, batch = make(shape)
        masks = random_masks(model, config.cut.shares)
        cuts = [aire.cut(model, keep) for keep in masks]
        passes = {name: _measure([p(m, batch) for m in cuts], config.repetitions) for name, p in PASSES.items()}
        for i, share in enumerate(config.cut.shares):
            (full, _), (run, _) = passes["forward"][0], passes["forward"][i]
            kept = f"{sum(int(keep.sum()) for keep in masks[i].values()):,}"
            of_full = {"operations": run.operations / full.operations}
            cells = []
            for name, measured in passes.items():
                run, t = measured[i]
                of_full[name] = t / measured[0][1]
                cells += [f"{1e3 * t:.1f}", f"{of_full[name]:.2f}", f"{run.temporary / 2**20:.0f}"]
            sizes = f"{share:.0%}", kept, f"{count_parameters(cuts[i]):,}"
            table.add(str(shape), *sizes, f"{of_full['operations']:.2f}", *cells)
            for name, value in of_full.items():
                table.plot("of full", f"states kept (%): {name}", str(shape), 100 * share, value)
        print(f"{shape}: done", flush=True)
    return table


def _measure(prepared: Sequence[Prepared], repetitions: int) -> list[tuple[Compiled, float]]:
    """Return compiled passes with their seconds, measured side by side."""
    seconds = interleaved({str(i): call for i, (_, call) in enumerate(prepared)}, repetitions)
    return [(run, t) for (run, _), t in zip(prepared, seconds.values(), strict=True)]


def random_masks(model: Classifier, shares: Sequence[float]) -> list[dict[str, np.ndarray]]:
    """Return masks that keep each share of every layer's states. A smaller share is a subset of a larger one."""
    rng = np.random.default_rng(0)
    order = {layer: rng.permutation(m.n_states) for layer, m in aire.modes(model).items()}
    return [{layer: o < round(share * o.size) for layer, o in order.items()} for share in shares]
