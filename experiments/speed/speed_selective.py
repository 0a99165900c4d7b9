"""S6: the selective scan beside a naive one, and a layer against the share of its states kept."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from aire.ssm import S6, S6Config
from aire.ssm.selective_scan import FORMS, selective_scan
from experiments.speed.naive import naive_selective_scan
from experiments.speed.side_by_side import relative_difference
from experiments.speed.table import Table
from experiments.timing import Compiled, Prepared, compiled, interleaved

Scan = Callable[..., Array]


def selective_table(config: ConfigDict) -> Table:
    """Compare values, times and memory with `naive_selective_scan`. The largest shape is compiled, not run."""
    names = "naive, ms", "aire, ms", "times as fast", "temporary memory, MiB", "ratio", "agree to"
    table = Table("selective scan (B, L, D, N)", "pass", *names)
    for shape in config.selective.shapes:
        inputs = _inputs(shape)
        for name, make in _PASSES.items():
            runs = [compiled(make(scan), *inputs) for scan in (naive_selective_scan, _ours)]
            calls = {str(i): functools.partial(run, *inputs) for i, run in enumerate(runs)}
            naive, ours = (1e3 * t for t in interleaved(calls, config.repetitions).values())
            times = f"{naive:.1f}", f"{ours:.1f}", f"{naive / ours:.1f}"
            difference = relative_difference(*(run(*inputs) for run in runs))
            table.add(str(tuple(shape)), name, *times, *_memory(*runs), f"{difference:.0e}")
    shapes = jax.eval_shape(lambda: _inputs(config.selective.compiled))
    for name, make in _PASSES.items():
        runs = [compiled(make(scan), *shapes) for scan in (naive_selective_scan, _ours)]
        table.add(str(tuple(config.selective.compiled)), name, "", "", "", *_memory(*runs), "")
    return table


def form_seconds(shape: Sequence[int], repetitions: int) -> dict[str, dict[str, float]]:
    """Return the seconds of each form of the scan of (B, L, D, N) states, by pass."""
    inputs = _inputs(shape)

    def call(make: Callable[[Scan], Callable], form: str) -> Callable[[], object]:
        run = jax.jit(make(lambda *inputs: selective_scan(*inputs, form=form)[0]))
        return lambda: run(*inputs)

    return {
        name: interleaved({form: call(make, form) for form in FORMS}, repetitions) for name, make in _PASSES.items()
    }


def selective_cuts_table(config: ConfigDict) -> Table:
    """Measure the scan, the layer and its step against the share of states kept.

    The floor is the time with one state: the projections, the convolution, the time steps and the gates, which no cut
    of states makes smaller. "In proportion" rises from there with the number of states. Without states the layer needs
    no time steps either, so it can be below the floor.
    """
    table = Table("S6", "kept", "states", "ms", "time, of full", "floor", "in proportion")
    s = config.selective.cuts
    layer = S6(s.d_model, s.states, S6Config(), rngs=nnx.Rngs(0))
    order = np.random.default_rng(0).permutation(s.states)
    counts = sorted({1, *(round(share * s.states) for share in s.shares)}, reverse=True)
    cuts = {n: layer.cut(order < n) for n in counts}
    features = f"H {s.d_model}, L {s.length}, B {s.batch}"
    _add(table, f"scan, {features}", {n: _scan_of(s, n) for n in counts}, config.repetitions)
    _add(table, f"layer, {features}", {n: _layer(cut, s) for n, cut in cuts.items()}, config.repetitions)
    for batch in s.step_batches:
        steps = {n: _step(cut, s.d_model, batch) for n, cut in cuts.items()}
        _add(table, f"step, H {s.d_model}, B {batch}", steps, 20 * config.repetitions)
    return table


def _add(table: Table, name: str, prepared: Mapping[int, Prepared], repetitions: int) -> None:
    """Add rows for the numbers of states, of which the largest comes first."""
    calls = {str(n): call for n, (_, call) in prepared.items()}
    seconds = {int(n): t for n, t in interleaved(calls, repetitions).items()}
    states = max(seconds)
    floor = seconds[1] / seconds[states]
    for n, t in seconds.items():
        proportion = floor + (1 - floor) * (n - 1) / max(states - 1, 1) if n else floor
        shares = (f"{share:.2f}" for share in (t / seconds[states], floor, proportion))
        table.add(name, f"{n / states:.0%}", str(n), f"{1e3 * t:.3f}", *shares)
        table.plot("time, of full", "states kept (%)", name, 100 * n / states, t / seconds[states])


def _ours(*inputs: Array) -> Array:
    return selective_scan(*inputs)[0]


def _forward(scan: Scan) -> Scan:
    return scan


def _gradients(scan: Scan) -> Callable[..., tuple[Array, ...]]:
    return jax.grad(lambda *inputs: jnp.sum(jnp.sin(scan(*inputs))), argnums=range(5))


_PASSES: dict[str, Callable[[Scan], Callable]] = {"forward": _forward, "with gradients": _gradients}


def _inputs(shape: Sequence[int]) -> tuple[Array, ...]:
    """u, Δ, A, B and C of a new layer, with noise for what depends on inputs."""
    batch, length, D, N = shape
    keys = jax.random.split(jax.random.key(0), 4)
    u, Delta = (jax.random.normal(key, (batch, length, D)) for key in keys[:2])
    B, C = (jax.random.normal(key, (batch, length, N)) for key in keys[2:])
    A = -jnp.broadcast_to(jnp.arange(1.0, N + 1)[:, None], (N, D))
    return u, jax.nn.softplus(Delta - 4), A, B, C


def _memory(naive: Compiled, ours: Compiled) -> tuple[str, str]:
    before, after = naive.temporary / 2**20, ours.temporary / 2**20
    return f"{before:.0f} → {after:.0f}", f"{after / before:.3f}"


def _scan_of(s: ConfigDict, states: int) -> Prepared:
    inputs = _inputs((s.batch, s.length, 2 * s.d_model, states))
    run = compiled(_ours, *inputs)
    return run, lambda: run(*inputs)


def _layer(layer: S6, s: ConfigDict) -> Prepared:
    graphdef, state = nnx.split(layer)
    u = jax.random.normal(jax.random.key(0), (s.batch, s.length, s.d_model))
    run = compiled(lambda state, u: nnx.merge(graphdef, state)(u), state, u)
    return run, lambda: run(state, u)


def _step(layer: S6, d_model: int, batch: int) -> Prepared:
    graphdef, arrays = nnx.split(layer)
    u, state = jnp.ones((batch, d_model)), layer.initial_state(batch)
    run = compiled(lambda arrays, u, state: nnx.merge(graphdef, arrays).step(u, state), arrays, u, state)
    return run, lambda: run(arrays, u, state)
