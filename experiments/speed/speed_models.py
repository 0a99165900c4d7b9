"""Whole models: beside the straightforward formulation, and after cuts."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

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
from experiments.speed.naive import straightforward
from experiments.timing import Compiled, Prepared, compiled, forward, interleaved

Rows = list[tuple[str, ...]]
OPTIMIZER = OptimizerConfig(lr=0.001, ssm_lr=0.001, weight_decay=0.01)
_ACTIVATIONS = {"s4d": "glu"}  # of the reference; of the others "half_glu1"


class Shape(NamedTuple):
    """A model and its batch; `states` are counted as the kind of layer counts them."""

    kind: str
    depth: int
    d_model: int
    states: int
    length: int
    batch: int

    def __str__(self) -> str:
        states = KINDS[self.kind].describe_states(self.states)
        return f"{self.kind}, {self.depth} × (H {self.d_model}, {states}), L {self.length}, B {self.batch}"


def make(shape: Shape) -> tuple[Classifier, dict[str, Array]]:
    """A model of this shape, initialised, and a batch of noise for it."""
    sizes = (KINDS[shape.kind].n_states(shape.states, shape.d_model),) * shape.depth
    ssm = ssm_config({"kind": shape.kind, "bidirectional": True})
    activation = _ACTIVATIONS.get(shape.kind, "half_glu1")
    model = Classifier(ModelConfig(1, shape.d_model, 10, sizes, ssm, activation=activation), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (shape.batch, shape.length, 1))
    return model, {"x": x, "y": jnp.zeros(shape.batch, jnp.int32)}


def training(model: Classifier, batch: dict[str, Array]) -> Prepared:
    """The compiled training step, and a call that goes on from the state of the call before."""
    model.train()
    functions, *_ = split_model(model)
    optimizer = make_optimizer(OPTIMIZER, model, warmup_steps=1, total_steps=100)
    states = [init_state(model, optimizer, jax.random.key(0))]
    run = compiled(make_train_step(functions, optimizer), states[0], batch)

    def step():
        states[0], metrics = run(states[0], batch)
        return metrics

    return run, step


PASSES = {"forward": forward, "training step": training}


def model_rows(config: ConfigDict) -> Rows:
    """Time, compilation and temporary memory of both formulations, and their ratios."""

    def pair(shape: Shape, name: str) -> tuple[Prepared, Prepared]:
        model, batch = make(shape)
        return PASSES[name](straightforward(model), batch), PASSES[name](model, batch)

    return compare("straightforward", map(Shape._make, config.models), pair, config.repetitions)


def compare(
    other: str, shapes: Iterable[Shape], pair: Callable[[Shape, str], tuple[Prepared, Prepared]], repetitions: int
) -> Rows:
    """A row for every shape and pass: the other implementation, ours, their ratios, and how far they agree."""
    columns = f"{other}, ms", "aire, ms", "times as fast", "compilation, s", "ratio", "temporary memory, MiB", "ratio"
    rows: Rows = [("model", "pass", *columns, "agree to")]
    for shape in shapes:
        for name in PASSES:
            (a, call_a), (b, call_b) = pair(shape, name)
            difference = max(_difference(call_a(), call_b()) for _ in range(3))  # a training step goes on from the last
            t = interleaved({"a": call_a, "b": call_b}, repetitions)
            times = f"{1e3 * t['a']:.1f}", f"{1e3 * t['b']:.1f}", f"{t['a'] / t['b']:.2f}"
            compilation = f"{a.seconds:.1f} → {b.seconds:.1f}", f"{b.seconds / a.seconds:.2f}"
            memory = f"{a.temporary / 2**20:.0f} → {b.temporary / 2**20:.0f}", f"{b.temporary / a.temporary:.2f}"
            rows.append((str(shape), name, *times, *compilation, *memory, f"{difference:.0e}"))
            print(f"{shape}, {name}: {times[-1]} times as fast as {other}", flush=True)
    return rows


def _difference(a: Array | dict[str, Array], b: Array | dict[str, Array]) -> float:
    """The largest between two log-probabilities of the classes, from them or from logits; or between two losses of a
    training step, from them or from its metrics."""
    if isinstance(b, dict):
        return abs(float(a["loss"] if isinstance(a, dict) else a) - float(b["loss"]))
    return float(jnp.abs(jax.nn.log_softmax(a) - jax.nn.log_softmax(b)).max())


def cut_rows(config: ConfigDict) -> Rows:
    """A model's passes against the share of states kept, drawn at random; the last row has none.

    For S5 that is the floor; S4D without states also skips its convolution. The operations are those of the
    forward pass: what is left of the matmuls says what is left of the time at best.
    """
    columns = [c for name in PASSES for c in (f"{name}, ms", f"{name}, of full", f"{name}, MiB")]
    rows: Rows = [("model", "kept", "states", "parameters", "operations, of full", *columns)]
    for shape in map(Shape._make, config.cut.models):
        model, batch = make(shape)
        keep = draws(model, config.cut.shares)
        cuts = [aire.cut(model, k) for k in keep]
        passes = [_measured([prepare(m, batch) for m in cuts], config.repetitions) for prepare in PASSES.values()]
        for i, share in enumerate(config.cut.shares):
            (whole, _), (run, _) = passes[0][0], passes[0][i]
            rows.append(
                (
                    str(shape),
                    f"{share:.0%}",
                    f"{sum(int(k.sum()) for k in keep[i].values()):,}",
                    f"{count_parameters(cuts[i]):,}",
                    f"{run.operations / whole.operations:.2f}",
                    *(cell for measured in passes for cell in _against_full(*measured[i], full=measured[0][1])),
                )
            )
        left = ", ".join(row[6] for row in rows if row[0] == str(shape))
        print(f"{shape}: the forward pass takes {left} of the full one's time", flush=True)
    return rows


def _measured(prepared: Sequence[Prepared], repetitions: int) -> list[tuple[Compiled, float]]:
    """Compiled passes with the seconds that they take side by side."""
    seconds = interleaved({str(i): call for i, (_, call) in enumerate(prepared)}, repetitions)
    return [(run, t) for (run, _), t in zip(prepared, seconds.values(), strict=True)]


def _against_full(run: Compiled, seconds: float, *, full: float) -> tuple[str, str, str]:
    return f"{1e3 * seconds:.1f}", f"{seconds / full:.2f}", f"{run.temporary / 2**20:.0f}"


def draws(model: Classifier, shares: Sequence[float]) -> list[dict[str, np.ndarray]]:
    """Masks of each share of every layer's states; a smaller share's states are also in the larger ones'."""
    rng = np.random.default_rng(0)
    order = {layer: rng.permutation(m.margin.size) for layer, m in aire.modes(model).items()}
    return [{layer: o < round(share * o.size) for layer, o in order.items()} for share in shares]
