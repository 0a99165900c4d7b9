"""Train, evaluate and calibrate tiny models on whatever devices there are; print what should not depend on them.

python -m tests.training.on_devices FOLDER FORMS [HOST:PORT COUNT INDEX]
"""

import csv
import json
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import aire
from aire.data.pipeline import Split
from aire.models import Classifier, ModelConfig
from aire.ssm import ssm_config
from aire.training.evaluate import make_evaluator
from aire.training.loop import TrainConfig, train
from aire.training.optimizer import OptimizerConfig
from aire.utils import processes

L = 12
OPTIMIZER = OptimizerConfig(lr=0.01, ssm_lr=0.003, weight_decay=0.01)
CONFIG = {"batch_size": 8, "epochs": 2, "warmup_epochs": 1, "evaluate_every": 2, "optimizer": OPTIMIZER}
MODEL = {"ssm": ssm_config({"blocks": 2, "bidirectional": True}), "pooling": "masked_mean", "dropout": 0.3}
FORMS = {  # shape of x, changes of the model, changes of the training
    "tokens": ((L,), {"d_input": 20}, {}),
    "values": ((L, 3), {"d_input": 3, "ssm": ssm_config({"kind": "s4d"})}, {"accumulate": 2}),
    "documents": ((2, L), {"d_input": 20, "retrieval": True}, {}),
    "fsdp": ((2, L), {"d_input": 20, "retrieval": True}, {"fsdp": True}),
}


def splits(shape: tuple[int, ...]) -> dict[str, Split]:
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        tokens = shape[-1] == L
        x = rng.integers(0, 20, (n, *shape)).astype(np.uint8) if tokens else rng.normal(size=(n, *shape))
        lengths = rng.integers(5, L + 1, (n, *shape[:-1]) if tokens else n)
        x, y = (x if tokens else x.astype(np.float32)), rng.integers(0, 4, n)
        return Split(x, lengths.astype(np.int32), y.astype(np.int32))

    return {"train": split(32), "validation": split(19)}


def measure(form: str, folder: Path) -> dict[str, object]:
    """The losses of a training; the accuracy and the moments of the trained model."""
    shape, model_changes, changes = FORMS[form]
    data = splits(shape)
    n_states = 4 if form != "values" else 4 * 8
    model = Classifier(ModelConfig(**MODEL | {"d_model": 8, "d_output": 4, "state_sizes": (n_states,)} | model_changes),
                       rngs=nnx.Rngs(0))  # fmt: skip
    config = TrainConfig(**CONFIG | changes)
    trained = train(model, data, config, seed=0, folder=folder / form, fingerprint={})
    answers = make_evaluator(trained.model, 8)(trained.model, data["validation"])
    batches = [{"x": data["train"].x[i:][:8], "lengths": data["train"].lengths[i:][:8]} for i in (0, 8, 27)]
    [moments] = aire.calibrate(trained.model, batches).values()
    if jax.process_index():
        return {}
    rows = list(csv.DictReader((folder / form / "metrics.csv").read_text().splitlines()))
    return {
        "devices": [jax.process_count(), jax.device_count()],
        "losses": [float(row["value"]) for row in rows if row["metric"].endswith("loss")] + [answers.loss],
        "right": answers.right.tolist(),
        "moments": np.ravel(moments.outer).tolist(),
    }


if __name__ == "__main__":
    folder, forms, *given = sys.argv[1:]
    if given:
        processes.start((given[0], int(given[1]), int(given[2])))
    results = {form: measure(form, Path(folder)) for form in forms.split(",")}
    if jax.process_index() == 0:
        print(json.dumps(results))
    processes.end()
