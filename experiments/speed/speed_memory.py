"""Memory of training: what saves it and costs time, and what the tasks at full size need, without training anything."""

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from aire.data.options import Form, describe
from aire.io.weights import abstract_model
from aire.models import ModelConfig
from aire.ssm import scan
from aire.training.loop import TrainConfig
from aire.training.step import make_train_step, split_model, start_state
from experiments.settings import new_model
from experiments.speed.speed_models import Shape, make, training
from experiments.speed.table import Table
from experiments.timing import interleaved

DEVICES_GB = (16, 40, 80)
# The ways to save memory that a run can choose, the cheapest first: changes of the model, and of the training.
WAYS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "as it is": ({}, {}),
    "remat": ({"remat": True}, {}),
    "accumulate=4": ({}, {"accumulate": 4}),
    "remat, accumulate=4": ({"remat": True}, {"accumulate": 4}),
}


def memory_table(config: ConfigDict) -> Table:
    """Measure what `model.remat` and `train.accumulate` save, and what they cost."""
    table = Table("training step", "way", "temporary memory, MiB", "of plain", "time, ms", "of plain", "compilation, s")
    for shape in map(Shape._make, config.memory):
        prepared = {name: training(*make(shape, **model), **step) for name, (model, step) in WAYS.items()}
        seconds = interleaved({name: call for name, (_, call) in prepared.items()}, config.repetitions)
        plain, plain_seconds = prepared["as it is"][0].temporary, seconds["as it is"]
        for name, (run, _) in prepared.items():
            memory = f"{run.temporary / 2**20:.0f}", f"{run.temporary / plain:.2f}"
            time = f"{1e3 * seconds[name]:.1f}", f"{seconds[name] / plain_seconds:.2f}"
            table.add(str(shape), name, *memory, *time, f"{run.seconds:.1f}")
        print(f"{shape}: done", flush=True)
    return table


def fit_table(config: ConfigDict) -> Table:
    """What a training step of each config needs on one device, as XLA plans it.

    Nothing is allocated: the step is compiled from shapes. On a CPU it has the scan of the accelerators.
    """
    columns = "parameters", "batch", "length", "state, GB", "step, GB", "with remat, GB"
    table = Table("config", *columns, *(f"{size} GB" for size in DEVICES_GB))
    for name in config.fit:
        task, _, variants = name.partition(":")
        settings = importlib.import_module(f"configs.{task}").get_config(variants)
        form = describe(settings.data.to_dict())
        model = new_model(settings.model, form)
        train = TrainConfig.from_dict(settings.train.to_dict())
        with accelerators_scan():
            state, plain = needed(model, train, form, {})
            _, remat = needed(model, train, form, {"remat": True})
        verdicts = [_verdict(size, plain, remat) for size in DEVICES_GB]
        sizes = f"{_parameters(model):,}", f"{train.batch_size}", f"{form.length:,}"
        table.add(name, *sizes, f"{state:.2f}", f"{plain:.1f}", f"{remat:.1f}", *verdicts)
        print(f"{name}: {plain:.1f} GB, {remat:.1f} GB with remat", flush=True)
    return table


def _verdict(size: int, plain: float, remat: float) -> str:
    usable = 0.9 * size  # the rest is the driver's, the programs' and the batches'
    return "yes" if plain <= usable else "with remat" if remat <= usable else "no"


def needed(config: ModelConfig, train: TrainConfig, form: Form, changes: Mapping[str, Any]) -> tuple[float, float]:
    """Return the GB of the training state and of a training step, which contains it."""
    planned = plan_step(dataclasses.replace(config, **changes), train, batch_shapes(form, train.batch_size))
    return planned.state_gb, planned.gb


class Planned(NamedTuple):
    """A compiled training step, and the GB that it needs: of the state alone, and of all."""

    step: Callable[..., Any]
    state_gb: float
    gb: float


def plan_step(config: ModelConfig, train: TrainConfig, batch: Mapping[str, jax.ShapeDtypeStruct]) -> Planned:
    """Compile a training step for batches of these shapes. Nothing is allocated."""
    model = abstract_model(config)
    model.train()
    functions, params, buffers = split_model(model)
    optimizer = train.make_optimizer(model, epoch_steps=10)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda p, b: start_state(p, b, optimizer, key), params, buffers)
    step = make_train_step(functions, optimizer, accumulate=train.accumulate).lower(state, batch).compile()
    plan = step.memory_analysis()
    total = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    bytes_of_state = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    return Planned(step, bytes_of_state / 1e9, total / 1e9)


def batch_shapes(form: Form, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch of a task."""
    documents = (batch_size, 2) if form.retrieval else (batch_size,)
    x = (form.length,) if form.tokens else (form.length, form.d_input)
    return {
        "x": jax.ShapeDtypeStruct((*documents, *x), jnp.uint8 if form.tokens else jnp.float32),
        "lengths": jax.ShapeDtypeStruct(documents, jnp.int32),
        "y": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }


def _parameters(config: ModelConfig) -> int:
    _, params, _ = split_model(abstract_model(config))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


@contextlib.contextmanager
def accelerators_scan() -> Iterator[None]:
    """Compile for this platform the form of the scan that accelerators run."""
    before = dict(scan.PLATFORM_FORMS)
    scan.PLATFORM_FORMS.clear()
    try:
        yield
    finally:
        scan.PLATFORM_FORMS.update(before)
