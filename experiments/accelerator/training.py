"""Step time and memory of each config of the papers' table on this device, and the hours of its training."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from aire.data.options import Form, describe
from aire.models import Classifier, ModelConfig
from aire.training.loop import TrainConfig
from aire.training.step import init_state
from experiments.paper_table import papers
from experiments.settings import new_model
from experiments.speed.speed_memory import batch_shapes, plan_step

STEPS = "config", "batch", "length", "GB", "step, ms", "measured"
HOURS = "task", "layer", "config", "examples", "steps", "examples/s", "tokens/s", "hours"
USABLE = 0.9  # of the memory; the rest is the driver's, the programs' and the batches'
# Of the published training splits, as the configs comment them. Generated data has its size in the config.
_PUBLISHED = {
    "imdb": 22_500,
    "aan": 147_086,
    "cifar10": 45_000,
    "mnist": 54_000,
    "fashion_mnist": 55_000,
    "speech_commands": 84_843,
}
_IMDB_WITH_VALIDATION = 25_000


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a training step of a config costs on this device.

    Attributes:
        gb: of a step with the measured batch.
        seconds: of a step with the config's batch; None if it was not measured.
        measured: in words, what was measured.
    """

    gb: float
    seconds: float | None
    measured: str


def configs(config: ConfigDict) -> dict[str, tuple[str, str]]:
    """Return task and layer of each row of the papers' table, by the command of its config."""
    rows = [(task, layer) for layer in config.layers for task in config.tasks if task in papers.tasks_of(layer)]
    return {command(task, layer, config.size): (task, layer) for task, layer in rows}


def command(task: str, layer: str, size: str) -> str:
    """Return what follows --config=."""
    variants = papers.variants(task, layer, size)
    return f"{papers.TASKS[task].config}_prune{':' * bool(variants)}{variants}"


def measure(settings: ConfigDict, seconds: float, cpu_batch: int) -> Cost:
    """Time training steps of a config on random inputs, if they have room.

    Args:
        settings: the config.
        seconds: to spend on steps after the first; at least one is timed.
        cpu_batch: examples of a step on a CPU, whose time is scaled to the config's batch.
    """
    form = describe(settings.data.to_dict())
    model, train = new_model(settings.model, form), TrainConfig.from_dict(settings.train.to_dict())
    batch, words, room = train.batch_size, [], memory()
    if jax.default_backend() == "cpu" and batch > cpu_batch:
        batch, words = cpu_batch, [f"{cpu_batch} of {batch} examples on a CPU, time × {batch / cpu_batch:g}"]
        train = dataclasses.replace(train, batch_size=batch, accumulate=1)
    planned = plan_step(model, train, batch_shapes(form, batch))
    if planned.gb > USABLE * room:
        words.append(f"{planned.gb:.1f} GB do not fit, so with model.remat")
        model = dataclasses.replace(model, remat=True)
        planned = plan_step(model, train, batch_shapes(form, batch))
    if planned.gb > USABLE * room:
        return Cost(planned.gb, None, f"not measured: {planned.gb:.1f} GB with model.remat, {room:.1f} GB are there")
    try:
        step, n = _seconds_of_a_step(planned.step, model, train, form, seconds)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Cost(planned.gb, None, f"not measured: {planned.gb:.1f} GB are planned, and the memory ran out")
    words.append(f"median of {n} steps")
    return Cost(planned.gb, step * settings.train.batch_size / batch, "; ".join(words))


def memory() -> float:
    """Return the GB of the first device, or of the machine if the device does not say."""
    found = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return (found or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 1e9


def _seconds_of_a_step(
    step: Callable[..., Any], config: ModelConfig, train: TrainConfig, form: Form, budget: float
) -> tuple[float, int]:
    """Return the median time of steps that continue a training for so many seconds, and their number."""
    model = Classifier(config, rngs=nnx.Rngs(0))
    model.train()
    state = init_state(model, train.make_optimizer(model, epoch_steps=10), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, random_batch(form, train.batch_size))
    state, _ = jax.block_until_ready(step(state, batch))  # the first call also loads the program
    times: list[float] = []
    while not times or sum(times) < budget:
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
    return float(np.median(times)), len(times)


def random_batch(form: Form, size: int) -> dict[str, np.ndarray]:
    """Return a batch of random inputs of full length."""
    shapes, rng = batch_shapes(form, size), np.random.default_rng(0)
    x = shapes["x"]
    noise = rng.integers(0, form.d_input, x.shape) if form.tokens else rng.normal(size=x.shape)
    lengths = np.full(shapes["lengths"].shape, form.length, np.int32)
    return {"x": noise.astype(x.dtype), "lengths": lengths, "y": rng.integers(0, form.n_classes, size).astype(np.int32)}


def train_examples(data: Mapping[str, Any]) -> int:
    """Return the number of training examples that the options of a task say, or that its published data has."""
    if known := describe(data).train_examples:
        return known
    # The releases of the Long Range Arena's generated tasks have the sizes in the configs.
    all_of_them = _IMDB_WITH_VALIDATION if data.get("validate_on_test") else _PUBLISHED.get(data["task"], 0)
    given = data.get("train_examples", 0)
    return min(given, all_of_them) if given and all_of_them else given or all_of_them


def total_steps(settings: ConfigDict) -> int:
    """Return the steps of the whole training: full batches of an epoch, times epochs."""
    return train_examples(settings.data.to_dict()) // settings.train.batch_size * settings.train.epochs


def step_row(name: str, settings: ConfigDict, cost: Cost) -> tuple[str, ...]:
    form = describe(settings.data.to_dict())
    milliseconds = "" if cost.seconds is None else _number(1e3 * cost.seconds)
    return name, str(settings.train.batch_size), f"{form.length:,}", f"{cost.gb:.2f}", milliseconds, cost.measured


def hours_row(name: str, task: str, layer: str, settings: ConfigDict, cost: Cost | None) -> tuple[str, ...]:
    """The row of one training; without a cost if the task uses another task's model."""
    title = papers.TASKS[task].title, papers.LAYERS[layer], name
    if cost is None:
        return *title, "", "", "", "", f"none: uses the model of {papers.TASKS[papers.TASKS[task].model_of].title}"
    sizes = f"{train_examples(settings.data.to_dict()):,}", f"{total_steps(settings):,}"
    if cost.seconds is None:
        return *title, *sizes, "", "", "unknown: it does not fit"
    form, rate = describe(settings.data.to_dict()), settings.train.batch_size / cost.seconds
    tokens = rate * form.length * (1 + form.retrieval)
    return *title, *sizes, _number(rate), _number(tokens), _number(hours(settings, cost.seconds))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def hours(settings: ConfigDict, seconds: float) -> float:
    """Return the hours of all training steps of a config, without evaluations."""
    return total_steps(settings) * seconds / 3600
