# %% [markdown]
# # Prune a model in five minutes
#
# Half of the states of a trained model go, for less than a point of accuracy. It takes the packages of
# `requirements.txt`, a CPU, and unlabelled inputs of the model.

# %%
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import aire
from aire.data.tasks import load_task
from configs.lra_listops_prune import get_config

# %% [markdown]
# ## Model and data
#
# The model reads ListOps, expressions such as `[MAX 2 9 [MIN 4 7 ] 0 ]`, and names their value. It has 4 S5 layers of
# 32 states. 256 training sequences are enough here, because they are only measured. The first call generates the data
# in seconds; later ones read it from `data`.

# %%
model = aire.zoo.load("lra_listops_small")
options = get_config("small").data.to_dict() | {"train_examples": 256}
task = load_task(options, data_dir="data")
train, selection = task.splits["train"], task.splits["selection"]
print(task.description())

# %% [markdown]
# Ratios and methods are compared on the selection split, because the validation split chose the checkpoint. All batches
# have one shape, so the model is compiled once.

# %%
answer = nnx.jit(lambda model, x, lengths: model(x, lengths).argmax(axis=1))


def accuracy(model):
    parts = [selection[i : i + 100] for i in range(0, len(selection), 100)]
    right = [np.asarray(answer(model, part.x, part.lengths)) == part.y for part in parts]
    return float(np.mean(right))


print(f"accuracy before: {accuracy(model):.2%}")

# %% [markdown]
# ## Prune
#
# `surgeon` measures the second moments of the states on the 256 sequences, removes the states whose loss the others
# can make up for, and refits the readouts. [Calibrated pruning](calibrated.md) derives it. Batches are inputs, or
# dicts with `x` and `lengths`. They are measured once, and used for every cut below.

# %%
parts = [train[i : i + 64] for i in range(0, 256, 64)]
batches = [{"x": part.x, "lengths": part.lengths} for part in parts]
inputs = aire.pruning.Calibration(batches)
start = time.perf_counter()
result = aire.prune(model, ratio=0.5, method="surgeon", calibration=inputs)
print(f"{time.perf_counter() - start:.1f} s, compilation included\n")
print(result.summary())

# %% [markdown]
# The first table is the cut. The second compares each layer's output with the uncut layer's: what the score
# predicted, what the cut model does on the calibration sequences, and what it does on the quarter of them that was
# held out of the fit. If the last number is far above the one before, there are too few sequences.

# %%
print(f"accuracy after: {accuracy(result.model):.2%}")

# %% [markdown]
# ## Which method, and how far?
#
# `aire` is the closed form of the AIRE-Prune paper and needs no data. A cut can be tried as a mask, by
# `aire.pruning.apply_masked`: the model keeps its size, so the program that is already compiled serves all cuts.

# %%
ratios = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8)
curves = {"aire": [], "surgeon": []}
for method, accuracies in curves.items():
    for ratio in ratios:
        cut = aire.prune(model, ratio, method, calibration=inputs).cut
        accuracies.append(accuracy(aire.pruning.apply_masked(model, cut)))

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for method, accuracies in curves.items():
    axes.plot([100 * ratio for ratio in ratios], [100 * a for a in accuracies], "o-", label=method)
axes.axhline(100 * curves["aire"][0] - 1, color="0.6", linestyle=":", label="one point below the uncut model")
axes.set(xlabel="states cut (%)", ylabel="accuracy on selection (%)", title="lra_listops_small")
axes.legend()
figure.savefig("accuracy.png")

# %% [markdown]
# ## Save, load, time
#
# The cut model is an ordinary model. Its arrays are smaller, and so is its file.

# %%
aire.save(result.model, "pruned.safetensors")
loaded = aire.load("pruned.safetensors")
x, lengths = selection.x[:100], selection.lengths[:100]
assert np.array_equal(answer(loaded, x, lengths), answer(result.model, x, lengths))
print("states of each layer:", loaded.config.state_sizes)


# %%
def milliseconds(model):
    jax.block_until_ready(answer(model, x, lengths))  # compile
    start = time.perf_counter()
    for _ in range(20):
        jax.block_until_ready(answer(model, x, lengths))
    return 1000 * (time.perf_counter() - start) / 20


print(f"100 sequences: {milliseconds(model):.1f} ms before, {milliseconds(loaded):.1f} ms after")
