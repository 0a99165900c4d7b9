"""Single layers: forms of the scan, growth with length, states and batch, odd numbers of states, one step."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from aire.pruning import count_parameters
from aire.ssm import KINDS, S4D, StateSpaceLayer
from aire.ssm.scan import diagonal_scan
from aire.ssm.selective_scan import FORMS
from experiments.speed.table import Table
from experiments.timing import Prepared, compiled, interleaved

MEASURED = "s5", "s4d"


def make(kind: str, d_model: int, states: int, bidirectional: bool = True) -> StateSpaceLayer:
    """Return a new layer with `states` per layer, or per channel if its kind counts them so."""
    entry = KINDS[kind]
    config = entry.config(bidirectional=bidirectional)
    return entry.layer(d_model, entry.n_states(states, d_model), config, rngs=nnx.Rngs(0))


def noise(batch: int, length: int, d_model: int) -> jax.Array:
    """Return the input of the passes below."""
    return jax.random.normal(jax.random.key(0), (batch, length, d_model))


def forward(layer: StateSpaceLayer, batch: int, length: int) -> Prepared:
    """Compile the forward pass."""
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u = noise(batch, length, layer.D.size)
    run = compiled(lambda u, *state: nnx.merge(graphdef, *state)(u), u, *state)
    return run, lambda: run(u, *state)


def gradient(layer: StateSpaceLayer, batch: int, length: int) -> Prepared:
    """Compile the gradients with respect to parameters and input."""
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u = noise(batch, length, layer.D.size)

    def loss(params, u, rest):
        return jnp.sum(nnx.merge(graphdef, params, rest)(u) ** 2)

    run = compiled(jax.grad(loss, argnums=(0, 1)), state[0], u, state[1])
    return run, lambda: run(state[0], u, state[1])


PASSES = {"forward": forward, "with gradients": gradient}


def scan_table(config: ConfigDict) -> Table:
    """Compare the chunked scan with the sequential one, forward and with gradients."""
    table = Table("scan (B, L, P)", "pass", "sequential, ms", "chunked, ms", "chunked / sequential")
    for shape in config.scan_shapes:
        for name, t in form_seconds(shape, config.repetitions).items():
            times = f"{1e3 * t['sequential']:.2f}", f"{1e3 * t['chunked']:.2f}"
            table.add(str(tuple(shape)), name, *times, f"{t['chunked'] / t['sequential']:.2f}")
    return table


def form_seconds(shape: tuple[int, int, int], repetitions: int) -> dict[str, dict[str, float]]:
    """Return the seconds of each form of the scan of (B, L, P) states, by pass."""
    passes = {"forward": _scan, "with gradients": _scan_gradient}
    return {
        name: interleaved({form: make_scan(form, shape) for form in FORMS}, repetitions)
        for name, make_scan in passes.items()
    }


def _scan_inputs(shape: tuple[int, int, int]) -> tuple[jax.Array, jax.Array]:
    batch, length, n = shape
    keys = jax.random.split(jax.random.key(0))
    Lambda_bar = jnp.exp(jax.lax.complex(-jax.random.uniform(keys[0], (n,)) / 100, jnp.linspace(0, 3, n)))
    return Lambda_bar, jax.random.normal(keys[1], (batch, length, 2, n))


def _scan(form: str, shape: tuple[int, int, int]) -> Callable[[], object]:
    inputs = _scan_inputs(shape)
    scan = jax.jit(lambda lam, v: diagonal_scan(lam, v, form=form))
    return lambda: scan(*inputs)


def _scan_gradient(form: str, shape: tuple[int, int, int]) -> Callable[[], object]:
    inputs = _scan_inputs(shape)

    def loss(lam, v):
        return jnp.sum(diagonal_scan(lam, v, form=form) ** 2)

    grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: grad(*inputs)


def growth_table(config: ConfigDict) -> Table:
    """Measure a layer's passes against length, states and batch, one at a time.

    The slope is that of log time between neighbouring sizes.
    """
    g = config.growth
    columns = [c for name in PASSES for c in (f"{name}, ms", f"{name}, slope", f"{name}, MiB")]
    table = Table("layer", "grows", "value", *columns)
    for kind in MEASURED:
        for name in ("length", "states", "batch"):
            points = [_point(kind, g.base.to_dict() | {name: value}, config.repetitions) for value in g[name]]
            steps = np.diff(np.log([[t for t, _ in point] for point in points]), axis=0)
            slopes = [["", ""], *([f"{s:.2f}" for s in row] for row in steps / np.diff(np.log(g[name]))[:, None])]
            for value, point, slope in zip(g[name], points, slopes, strict=True):
                cells = [(f"{1e3 * t:.2f}", s, f"{m / 2**20:.4g}") for (t, m), s in zip(point, slope, strict=True)]
                table.add(kind, name, str(value), *cells[0], *cells[1])
                for label, (seconds, memory) in zip(PASSES, point, strict=True):
                    table.plot("ms", name, f"{kind} {label}", value, 1e3 * seconds)
                    table.plot("MiB", name, f"{kind} {label}", value, memory / 2**20)
            print(f"{kind}, {name}: done", flush=True)
    return table


def _point(kind: str, size: dict[str, int], repetitions: int) -> list[tuple[float, int]]:
    """Return seconds and temporary memory of each pass."""
    layer = make(kind, size["d_model"], size["states"])
    passes = {name: prepare(layer, size["batch"], size["length"]) for name, prepare in PASSES.items()}
    seconds = interleaved({name: call for name, (_, call) in passes.items()}, repetitions)
    return [(seconds[name], run.temporary) for name, (run, _) in passes.items()]


def odd_table(config: ConfigDict) -> Table:
    """Measure the passes at every number of states: no number may cost far more than the next."""
    o = config.odd
    seconds: dict[str, list[float]] = {}
    for kind in MEASURED:
        layers = {str(n): make(kind, o.d_model, n) for n in o.states}
        for name, prepare in PASSES.items():
            calls = {n: prepare(layer, o.batch, o.length)[1] for n, layer in layers.items()}
            seconds[f"{kind} {name}"] = list(interleaved(calls, config.repetitions).values())
    table = Table("states", *(f"{label}, ms" for label in seconds))
    for n, *times in zip(o.states, *seconds.values(), strict=True):
        table.add(str(n), *(f"{1e3 * t:.2f}" for t in times))
        for label, t in zip(seconds, times, strict=True):
            table.plot("ms", "states (S4D: of each channel)", label, n, 1e3 * t)
    return table


def step_table(config: ConfigDict) -> Table:
    """Measure one step of the recurrence, dispatch included, and S4D's kernel against the share of states kept."""
    s = config.step
    columns = "batch", "kept", "states", "parameters", "operations, of full", "µs", "time, of full", "KiB"
    table = Table("one direction", *columns)
    layers = {
        kind: _cuts(make(kind, s.d_model, states, bidirectional=False), s.shares)
        for kind, states in (("s5", s.states), ("s4d", s.states_per_channel))
    }
    for kind, cuts in layers.items():
        for batch in s.batches:
            steps = [_step(layer, batch) for layer in cuts]
            name = f"{kind}, H {s.d_model}: step", str(batch)
            _add_cuts(table, name, cuts, s.shares, steps, 20 * config.repetitions)
    kernels = [_kernel(layer, s.length) for layer in layers["s4d"]]
    name = f"s4d, H {s.d_model}: kernel, L {s.length}", ""
    _add_cuts(table, name, layers["s4d"], s.shares, kernels, config.repetitions)
    return table


def _add_cuts(
    table: Table,
    name: tuple[str, str],
    layers: Sequence[StateSpaceLayer],
    shares: Sequence[float],
    prepared: Sequence[Prepared],
    n: int,
) -> None:
    seconds = list(interleaved({str(i): call for i, (_, call) in enumerate(prepared)}, n).values())
    what, batch = name
    curve = f"{what}, B {batch}" if batch else what
    for layer, share, (run, _), t in zip(layers, shares, prepared, seconds, strict=True):
        operations, time = run.operations / prepared[0][0].operations, t / seconds[0]
        sizes = f"{share:.0%}", f"{layer.n_states:,}", f"{count_parameters(layer):,}"
        table.add(*name, *sizes, f"{operations:.2f}", f"{1e6 * t:.0f}", f"{time:.2f}", f"{run.temporary / 2**10:.0f}")
        table.plot("of full", "states kept (%): operations", curve, 100 * share, operations)
        table.plot("of full", "states kept (%): time", curve, 100 * share, time)


def _cuts(layer: StateSpaceLayer, shares: Sequence[float]) -> list[StateSpaceLayer]:
    order = np.random.default_rng(0).permutation(layer.n_states)
    return [layer.cut(order < round(share * layer.n_states)) for share in shares]


def _step(layer: StateSpaceLayer, batch: int) -> Prepared:
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u, x = jnp.ones((batch, layer.D.size)), layer.initial_state(batch)
    step = compiled(lambda u, x, *state: nnx.merge(graphdef, *state).step(u, x), u, x, *state)
    return step, lambda: step(u, x, *state)


def _kernel(layer: S4D, length: int) -> Prepared:
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    kernel = compiled(lambda *state: nnx.merge(graphdef, *state).kernel(length), *state)
    return kernel, lambda: kernel(*state)
