"""The benchmark: scoring, selecting, cutting; the forms of the scan; S4D against the states left. One process."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire.files import write_text
from aire.models import Classifier, ModelConfig
from aire.pruning.scores import prefix_normalize
from aire.pruning.selection import select
from aire.report import tables
from aire.ssm import S4D, S4DConfig, S5Config
from aire.ssm.scan import diagonal_scan
from experiments.provenance import provenance
from experiments.timing import interleaved

Rows = list[tuple[str, ...]]


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Measure, print the tables, write them to report.md, results.csv and results.json in `workdir`."""
    print("measuring scoring, selection and surgery, the scan, S4D; about two minutes at full size", flush=True)
    source = provenance()
    all_rows = [pruning_rows(config), scan_rows(config), bank_rows(config)]
    for rows in all_rows:
        print(f"\n{tables.text(rows)}", flush=True)
    about = f"{source['machine']}; commit {source['commit']}; jax {source['versions']['jax']}"
    write_text(workdir / "report.md", "\n\n".join(["# Speed", *map(tables.markdown, all_rows), about]) + "\n")
    write_text(workdir / "results.csv", tables.csv_text([row for rows in all_rows for row in rows]))
    write_text(workdir / "results.json", json.dumps({"config": config.to_dict(), **source}, indent=1))
    print(f"\n{about}\nwritten to {workdir}", flush=True)


def pruning_rows(config: ConfigDict) -> Rows:
    """Milliseconds of each step of pruning, compiled: a full-size network, then selection alone against states."""
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
        seconds = interleaved({"": lambda e=energies: normalize_and_select(e)}, config.repetitions)
        rows.append(("normalise and select", f"{count:,} states in 10 layers", f"{1e3 * seconds['']:.2f}"))
    return rows


def normalize_and_select(energies: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return select({layer: prefix_normalize(e) for layer, e in energies.items()}, ratio=0.6)


def scan_rows(config: ConfigDict) -> Rows:
    """Both forms of the scan, forward and with gradients, as ratios to the sequential one."""
    rows: Rows = [("scan (B, L, P)", "pass", "sequential, ms", "chunked, ms", "chunked / sequential")]
    for shape in config.scan_shapes:
        for name, make in (("forward", forward), ("with gradients", gradient)):
            functions = {form: make(form, shape) for form in ("sequential", "chunked")}
            t = interleaved(functions, config.repetitions)
            times = f"{1e3 * t['sequential']:.2f}", f"{1e3 * t['chunked']:.2f}"
            rows.append((str(tuple(shape)), name, *times, f"{t['chunked'] / t['sequential']:.2f}"))
    return rows


def _scan_inputs(shape: tuple[int, int, int]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    batch, length, n = shape
    keys = jax.random.split(jax.random.key(0), 3)
    Lambda_bar = jnp.exp(jax.lax.complex(-jax.random.uniform(keys[0], (n,)) / 100, jnp.linspace(0, 3, n)))
    return Lambda_bar, tuple(jax.random.normal(key, (length, batch, n)) for key in keys[1:])


def forward(form: str, shape: tuple[int, int, int]) -> Callable[[], object]:
    inputs = _scan_inputs(shape)
    scan = jax.jit(lambda lam, v: diagonal_scan(lam, v, form=form))
    return lambda: scan(*inputs)


def gradient(form: str, shape: tuple[int, int, int]) -> Callable[[], object]:
    inputs = _scan_inputs(shape)

    def loss(lam, v):
        return sum(jnp.sum(x**2) for x in diagonal_scan(lam, v, form=form))

    grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: grad(*inputs)


def bank_rows(config: ConfigDict) -> Rows:
    """Milliseconds of an S4D layer's own work, compiled, against the states that a cut (drawn at random) left."""
    b = config.bank
    bank = S4D(b.d_model, b.d_model * b.states, S4DConfig(), rngs=nnx.Rngs(0))
    draw = np.random.default_rng(0).random(bank.n_states)
    layers = [bank.cut(draw < share) for share in b.shares]
    rows: Rows = [(f"S4D, H {b.d_model}, L {b.length}", *(f"{layer.n_states:,} states, ms" for layer in layers))]
    for name in ("kernel", "kernel with gradients", "step"):
        functions = {str(i): bank_functions(layer, b.length)[name] for i, layer in enumerate(layers)}
        rows.append((name, *(f"{1e3 * s:.2f}" for s in interleaved(functions, config.repetitions).values())))
    return rows


def bank_functions(layer: S4D, length: int) -> dict[str, Callable[[], object]]:
    graphdef, *state = nnx.split(layer, nnx.Param, ...)
    u, x = jnp.ones((1, layer.D.size)), layer.initial_state(1)
    kernel = jax.jit(lambda *state: nnx.merge(graphdef, *state).kernel(length))
    gradients = jax.jit(jax.grad(lambda *state: jnp.sum(nnx.merge(graphdef, *state).kernel(length) ** 2)))
    step = jax.jit(lambda u, x, *state: nnx.merge(graphdef, *state).step(u, x))
    return {
        "kernel": lambda: kernel(*state),
        "kernel with gradients": lambda: gradients(*state),
        "step": lambda: step(u, x, *state),
    }
