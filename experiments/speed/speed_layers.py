"""Single layers: the forms of the scan, growth with length, states and batch, odd numbers of states, one step."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from aire.pruning import count_parameters
from aire.ssm import KINDS, S4D, StateSpaceLayer
from aire.ssm.scan import diagonal_scan
from experiments.timing import Prepared, compiled, interleaved

Rows = list[tuple[str, ...]]
MEASURED = "s5", "s4d"


def make(kind: str, d_model: int, states: int, bidirectional: bool = True) -> StateSpaceLayer:
    """An initialised layer; `states` are counted as the kind of layer counts them."""
    entry = KINDS[kind]
    config = entry.config(bidirectional=bidirectional)
    return entry.layer(d_model, entry.n_states(states, d_model), config, rngs=nnx.Rngs(0))


def forward(layer: StateSpaceLayer, batch: int, length: int) -> Prepared:
    """The compiled forward pass on noise, and a call of it."""
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u = jax.random.normal(jax.random.key(0), (batch, length, layer.D.size))
    run = compiled(lambda u, *state: nnx.merge(graphdef, *state)(u), u, *state)
    return run, lambda: run(u, *state)


def gradient(layer: StateSpaceLayer, batch: int, length: int) -> Prepared:
    """The compiled gradients of parameters and input, and a call of them."""
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u = jax.random.normal(jax.random.key(0), (batch, length, layer.D.size))

    def loss(params, u, rest):
        return jnp.sum(nnx.merge(graphdef, params, rest)(u) ** 2)

    run = compiled(jax.grad(loss, argnums=(0, 1)), state[0], u, state[1])
    return run, lambda: run(state[0], u, state[1])


PASSES = {"forward": forward, "with gradients": gradient}


def scan_rows(config: ConfigDict) -> Rows:
    """Both forms of the scan, forward and with gradients, as ratios to the sequential one."""
    rows: Rows = [("scan (B, L, P)", "pass", "sequential, ms", "chunked, ms", "chunked / sequential")]
    for shape in config.scan_shapes:
        for name, make_scan in (("forward", _scan), ("with gradients", _scan_gradient)):
            t = interleaved({form: make_scan(form, shape) for form in ("sequential", "chunked")}, config.repetitions)
            times = f"{1e3 * t['sequential']:.2f}", f"{1e3 * t['chunked']:.2f}"
            rows.append((str(tuple(shape)), name, *times, f"{t['chunked'] / t['sequential']:.2f}"))
    return rows


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


def growth_rows(config: ConfigDict) -> Rows:
    """A layer's passes against each of length, states and batch alone; the slope of log time between neighbours."""
    g = config.growth
    columns = [c for name in PASSES for c in (f"{name}, ms", f"{name}, slope", f"{name}, MiB")]
    rows: Rows = [("layer", "grows", "value", *columns)]
    for kind in MEASURED:
        for name in ("length", "states", "batch"):
            points = [_point(kind, g.base.to_dict() | {name: value}, config.repetitions) for value in g[name]]
            steps = np.diff(np.log([[t for t, _ in point] for point in points]), axis=0)
            slopes = [["", ""], *([f"{s:.2f}" for s in row] for row in steps / np.diff(np.log(g[name]))[:, None])]
            for value, point, slope in zip(g[name], points, slopes, strict=True):
                cells = [(f"{1e3 * t:.2f}", s, f"{m / 2**20:.4g}") for (t, m), s in zip(point, slope, strict=True)]
                rows.append((kind, name, str(value), *cells[0], *cells[1]))
            print(f"{kind}, {name}: done", flush=True)
    return rows


def _point(kind: str, size: dict[str, int], repetitions: int) -> list[tuple[float, int]]:
    """Seconds and temporary memory of each of a layer's passes."""
    layer = make(kind, size["d_model"], size["states"])
    passes = {name: prepare(layer, size["batch"], size["length"]) for name, prepare in PASSES.items()}
    seconds = interleaved({name: call for name, (_, call) in passes.items()}, repetitions)
    return [(seconds[name], run.temporary) for name, (run, _) in passes.items()]


def odd_rows(config: ConfigDict) -> Rows:
    """Passes at every number of states in the config, of S4D in each channel: none may cost far more than the next."""
    o = config.odd
    columns: dict[str, list[str]] = {"states": [str(n) for n in o.states]}
    for kind in MEASURED:
        layers = {str(n): make(kind, o.d_model, n) for n in o.states}
        for name, prepare in PASSES.items():
            calls = {n: prepare(layer, o.batch, o.length)[1] for n, layer in layers.items()}
            seconds = interleaved(calls, config.repetitions)
            columns[f"{kind} {name}, ms"] = [f"{1e3 * t:.2f}" for t in seconds.values()]
    return [tuple(columns), *zip(*columns.values(), strict=True)]


def step_rows(config: ConfigDict) -> Rows:
    """One step of the recurrence against the share of states kept, dispatch included; and an S4D layer's kernel."""
    s = config.step
    columns = "batch", "kept", "states", "parameters", "operations, of full", "µs", "time, of full", "KiB"
    rows: Rows = [("one direction", *columns)]
    layers = {
        kind: _cuts(make(kind, s.d_model, states, bidirectional=False), s.shares)
        for kind, states in (("s5", s.states), ("s4d", s.states_per_channel))
    }
    for kind, cuts in layers.items():
        for batch in s.batches:
            steps = [_step(layer, batch) for layer in cuts]
            name = f"{kind}, H {s.d_model}: step", str(batch)
            rows += _kept_rows(name, cuts, s.shares, steps, 20 * config.repetitions)
    kernels = [_kernel(layer, s.length) for layer in layers["s4d"]]
    name = f"s4d, H {s.d_model}: kernel, L {s.length}", ""
    return rows + _kept_rows(name, layers["s4d"], s.shares, kernels, config.repetitions)


def _kept_rows(
    name: tuple[str, str],
    layers: Sequence[StateSpaceLayer],
    shares: Sequence[float],
    prepared: Sequence[Prepared],
    n: int,
) -> Rows:
    seconds = list(interleaved({str(i): call for i, (_, call) in enumerate(prepared)}, n).values())
    return [
        (
            *name,
            f"{share:.0%}",
            f"{layer.n_states:,}",
            f"{count_parameters(layer):,}",
            f"{run.operations / prepared[0][0].operations:.2f}",
            f"{1e6 * t:.0f}",
            f"{t / seconds[0]:.2f}",
            f"{run.temporary / 2**10:.0f}",
        )
        for layer, share, (run, _), t in zip(layers, shares, prepared, seconds, strict=True)
    ]


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
