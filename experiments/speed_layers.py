"""Single layers: the forms of the scan, growth with length, states and batch, odd numbers of states, one step."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from aire.ssm import S4D, S5, S4DConfig, S5Config
from aire.ssm.scan import diagonal_scan
from experiments.timing import Compiled, compiled, interleaved

Rows = list[tuple[str, ...]]
Layer = S5 | S4D


def make(kind: str, d_model: int, states: int, bidirectional: bool = True) -> Layer:
    """An initialised layer; `states` of S4D are those of one channel."""
    if kind == "s5":
        return S5(d_model, states, S5Config(bidirectional=bidirectional), rngs=nnx.Rngs(0))
    return S4D(d_model, d_model * states, S4DConfig(bidirectional=bidirectional), rngs=nnx.Rngs(0))


def forward(layer: Layer, batch: int, length: int) -> tuple[Compiled, Callable[[], object]]:
    """The compiled forward pass on noise, and a call of it."""
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u = jax.random.normal(jax.random.key(0), (batch, length, layer.D.size))
    run = compiled(lambda u, *state: nnx.merge(graphdef, *state)(u), u, *state)
    return run, lambda: run(u, *state)


def gradient(layer: Layer, batch: int, length: int) -> tuple[Compiled, Callable[[], object]]:
    """The compiled gradients of parameters and input, and a call of them."""
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u = jax.random.normal(jax.random.key(0), (batch, length, layer.D.size))

    def loss(params, u, rest):
        return jnp.sum(nnx.merge(graphdef, params, rest)(u) ** 2)

    run = compiled(jax.grad(loss, argnums=(0, 1)), state[0], u, state[1])
    return run, lambda: run(state[0], u, state[1])


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
    rows: Rows = [("layer", "grows", "value", "forward, ms", "slope", "with gradients, ms", "slope", "memory, MiB")]
    for kind in ("s5", "s4d"):
        for name in ("length", "states", "batch"):
            points = [_point(kind, g.base.to_dict() | {name: value}, config.repetitions) for value in g[name]]
            steps = np.diff(np.log([t for *t, _ in points]), axis=0) / np.diff(np.log(g[name]))[:, None]
            slopes = [("", ""), *((f"{a:.2f}", f"{b:.2f}") for a, b in steps)]
            for value, (a, b, memory), slope in zip(g[name], points, slopes, strict=True):
                times = f"{1e3 * a:.2f}", slope[0], f"{1e3 * b:.2f}", slope[1]
                rows.append((kind, name, str(value), *times, f"{memory / 2**20:.1f}"))
    return rows


def _point(kind: str, size: dict[str, int], repetitions: int) -> tuple[float, float, int]:
    """Seconds of both passes of a layer, and the temporary memory of the second."""
    layer = make(kind, size["d_model"], size["states"])
    (_, a), (run, b) = (prepare(layer, size["batch"], size["length"]) for prepare in (forward, gradient))
    t = interleaved({"a": a, "b": b}, repetitions)
    return t["a"], t["b"], run.temporary


def odd_rows(config: ConfigDict) -> Rows:
    """An S5 layer's passes at every number of states in the config: no number may cost far more than its neighbours."""
    o = config.odd
    rows: Rows = [("S5 states", "forward, ms", "with gradients, ms")]
    layers = {n: make("s5", o.d_model, n) for n in o.states}
    times = [
        interleaved({str(n): prepare(layer, o.batch, o.length)[1] for n, layer in layers.items()}, config.repetitions)
        for prepare in (forward, gradient)
    ]
    return rows + [(str(n), *(f"{1e3 * t[str(n)]:.2f}" for t in times)) for n in layers]


def step_rows(config: ConfigDict) -> Rows:
    """One step of the recurrence against the share of states kept, dispatch included; and an S4D layer's kernel."""
    s = config.step
    rows: Rows = [("one direction", "batch", *(f"{share:.0%} kept, µs" for share in s.shares))]
    for kind, states in (("s5", s.states), ("s4d", s.states_per_channel)):
        layers = _cuts(make(kind, s.d_model, states, bidirectional=False), s.shares)
        name = f"{kind}, H {s.d_model}, {layers[0].n_states:,} states"
        for batch in s.batches:
            t = interleaved({str(i): _step(layer, batch) for i, layer in enumerate(layers)}, 20 * config.repetitions)
            rows.append((f"{name}: step", str(batch), *(f"{1e6 * seconds:.0f}" for seconds in t.values())))
    t = interleaved({str(i): _kernel(layer, s.length) for i, layer in enumerate(layers)}, config.repetitions)
    rows.append((f"{name}: kernel, L {s.length}", "", *(f"{1e6 * seconds:.0f}" for seconds in t.values())))
    return rows


def _cuts(layer: Layer, shares: Sequence[float]) -> list[Layer]:
    order = np.random.default_rng(0).permutation(layer.n_states)
    return [layer.cut(order < round(share * layer.n_states)) for share in shares]


def _step(layer: Layer, batch: int) -> Callable[[], object]:
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u, x = jnp.ones((batch, layer.D.size)), layer.initial_state(batch)
    step = jax.jit(lambda u, x, *state: nnx.merge(graphdef, *state).step(u, x))
    return lambda: step(u, x, *state)


def _kernel(layer: S4D, length: int) -> Callable[[], object]:
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    kernel = jax.jit(lambda *state: nnx.merge(graphdef, *state).kernel(length))
    return lambda: kernel(*state)
