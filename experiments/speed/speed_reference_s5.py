"""Models beside the S5 reference, from a clone of github.com/lindermanlab/S5 that the user names."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from jax import Array
from ml_collections import ConfigDict

from aire import convert
from aire.ssm import hippo
from experiments.speed.side_by_side import clone_of, compare, side_by_side
from experiments.speed.speed_models import OPTIMIZER, PASSES, Shape, difference, make
from experiments.speed.table import Table
from experiments.timing import Prepared, compiled

_MOMENTUM = 0.95
_SSM_GROUP = ("B", "Lambda_re", "Lambda_im", "log_step")  # of its optimiser "standard"


class _State(TrainState):
    batch_stats: Any


def reference_table(config: ConfigDict) -> Table:
    """Compare our models with the reference's modules and training step, with the same parameters.

    Raises:
        UserError: `config.reference` is not a clone of the reference.
    """
    folder = clone_of("https://github.com/lindermanlab/S5", config, "reference", "s5/seq_model.py")
    rows = {str(Shape(*shape)): (folder, shape) for shape in config.reference_models}
    return compare(config, ("model", "lindermanlab/S5", "agree to"), rows, PASSES, reference_numbers)


def reference_numbers(folder: str, shape: Sequence, name: str, ours_first: bool, repetitions: int) -> list[float]:
    """Measure a pass of the reference's model and of ours in this process."""
    return side_by_side(*Reference(folder).pair(Shape(*shape), name), difference, ours_first, repetitions)


class Reference:
    """The reference's modules, imported from a clone.

    Its annotations use `jax.numpy.DeviceArray`, which JAX has removed since 2023; it is restored here.
    """

    def __init__(self, folder: str):
        jnp.DeviceArray = Array
        sys.path.insert(0, folder)
        from s5 import seq_model, ssm, train_helpers

        self.model, self.ssm, self.train_step = (
            seq_model.BatchClassificationModel,
            ssm.init_S5SSM,
            train_helpers.train_step,
        )

    def pair(self, shape: Shape, name: str) -> tuple[Callable[[], Prepared], Callable[[], Prepared]]:
        """Return what compiles a pass of the reference's model, and of ours."""
        _, batch = make(shape)
        module = self._module(shape)
        short = batch["x"][:1, :2]  # the variables do not depend on it; to compile their initialisation takes a minute
        variables = module(training=False).init(jax.random.key(0), short, jnp.ones(short.shape[:2]))
        ours = convert.s5_model(
            jax.tree.map(np.asarray, variables),
            activation="half_glu1",
            prenorm=True,
            batchnorm=True,
            bn_momentum=_MOMENTUM,
            bidirectional=True,
            pooling="mean",
        )
        prepare = {"forward": self._forward, "training step": self._training}[name]
        return lambda: prepare(module, variables, batch), lambda: PASSES[name](ours, batch)

    def _module(self, shape: Shape) -> Callable:
        Lambda, V = hippo.hippo_n_blocks(shape.states, 1, conj_sym=True)
        ssm = self.ssm(
            H=shape.d_model,
            P=shape.states,
            Lambda_re_init=jnp.asarray(Lambda.real, jnp.float32),
            Lambda_im_init=jnp.asarray(Lambda.imag, jnp.float32),
            V=jnp.asarray(V, jnp.complex64),
            Vinv=jnp.asarray(V.conj().T, jnp.complex64),
            C_init="lecun_normal",
            discretization="zoh",
            dt_min=0.001,
            dt_max=0.1,
            conj_sym=True,
            clip_eigs=False,
            bidirectional=True,
        )
        return functools.partial(
            self.model,
            ssm=ssm,
            d_output=10,
            d_model=shape.d_model,
            n_layers=shape.depth,
            padded=False,
            activation="half_glu1",
            dropout=0.0,
            prenorm=True,
            batchnorm=True,
            bn_momentum=_MOMENTUM,
        )

    def _forward(self, module: Callable, variables: dict, batch: dict[str, Array]) -> Prepared:
        run = compiled(module(training=False).apply, variables, batch["x"], jnp.ones(batch["x"].shape[:2]))
        return run, lambda: run(variables, batch["x"], jnp.ones(batch["x"].shape[:2]))

    def _training(self, module: Callable, variables: dict, batch: dict[str, Array]) -> Prepared:
        """Compile its training step with its optimiser "standard". Rates are constant: it sets them on the host."""
        groups = {
            "ssm": optax.inject_hyperparams(optax.adam)(learning_rate=OPTIMIZER.ssm_lr),
            "regular": optax.inject_hyperparams(optax.adamw)(
                learning_rate=OPTIMIZER.lr, weight_decay=OPTIMIZER.weight_decay
            ),
        }
        label = functools.partial(
            jax.tree_util.tree_map_with_path, lambda path, _: "ssm" if path[-1].key in _SSM_GROUP else "regular"
        )
        model = module(training=True)
        states = [
            _State.create(
                apply_fn=model.apply,
                params=variables["params"],
                tx=optax.multi_transform(groups, label),
                batch_stats=variables["batch_stats"],
            )
        ]
        inputs = jax.random.key(0), batch["x"], batch["y"].astype(jnp.float32), jnp.ones(batch["x"].shape[:2])
        step = jax.jit(lambda state, *inputs: self.train_step(state, *inputs, model, True))
        run = compiled(step, states[0], *inputs)

        def call():
            states[0], loss = run(states[0], *inputs)
            return loss

        return run, call
