# %% [markdown]
# # Bring your own model
#
# Four models that were not made with this package: plain arrays, a Flax layer of your own, a checkpoint of
# AIRE-Prune's code, and a Mamba in the layout of Hugging Face. Between them, a score of your own.

# %%
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import aire

rng = np.random.default_rng(0)

# %% [markdown]
# ## Plain arrays
#
# Any layer with the recurrence x_k = λ̄ x_{k−1} + B̄ u_k and the output Re(C x_k) is scored from its three arrays,
# whatever framework they are from. The masks come back by the names that you gave, and you cut your own arrays.

# %%
Lambda_bar = rng.uniform(0.2, 0.95, 16) * np.exp(1j * rng.uniform(0, 3, 16))
B_bar = rng.normal(size=(16, 3)) + 1j * rng.normal(size=(16, 3))
C = rng.normal(size=(2, 16)) + 1j * rng.normal(size=(2, 16))

modes = {"my layer": aire.Modes.discrete(Lambda_bar, B_bar, C)}
keep = np.asarray(aire.select(aire.score(modes, "aire"), ratio=0.5)["my layer"])
small = Lambda_bar[keep], B_bar[keep], C[:, keep]


# %%
def outputs(Lambda_bar, B_bar, C, u):
    x, y = np.zeros(len(Lambda_bar), complex), []
    for u_k in u:
        x = Lambda_bar * x + B_bar @ u_k
        y.append((C @ x).real)
    return np.array(y)


noise = rng.normal(size=(5000, 3))
full, cut = outputs(Lambda_bar, B_bar, C, noise), outputs(*small, noise)
energies = np.asarray(aire.score(modes, "aire", normalize="none")["my layer"])
print(f"states: {len(keep)} → {keep.sum()}")
print(f"energy of the states that are cut, of all states' energy: {energies[~keep].sum() / energies.sum():.1%}")
print(f"error of the output on white noise, of its energy:        {((full - cut) ** 2).sum() / (full**2).sum():.1%}")

# %% [markdown]
# The two would be equal if the states did not overlap.
#
# ## A Flax layer of your own
#
# A bank of real leaks, in Flax NNX and without any class of this package. To prune it, say what its modes are, and
# which axis of which array belongs to the states.


# %%
class Leaks(nnx.Module):
    STATE_AXIS = {"decay": 0, "B": 0, "C": 1}  # noqa: RUF012

    def __init__(self, H, n, rngs):
        self.decay = nnx.Param(2 * jax.random.normal(rngs.params(), (n,)) + 2)
        self.B = nnx.Param(jax.random.normal(rngs.params(), (n, H)))
        self.C = nnx.Param(jax.random.normal(rngs.params(), (H, n)))

    def discrete(self):
        leak = jax.nn.sigmoid(self.decay[...])
        return leak, (1 - leak)[:, None] * self.B[...], self.C[...]

    def __call__(self, u):  # (L, H)
        leak, B_bar, C = self.discrete()

        def step(x, u_k):
            x = leak * x + B_bar @ u_k
            return x, C @ x

        return jax.lax.scan(step, jnp.zeros(leak.shape), u)[1]


class Network(nnx.Module):
    def __init__(self, H, sizes, rngs):
        self.layers = nnx.List([Leaks(H, n, rngs) for n in sizes])

    def __call__(self, u):
        for layer in self.layers:
            u = u + jnp.tanh(layer(u))
        return u


def cut_network(network, keep):
    small = nnx.clone(network)
    for layer, mask in zip(small.layers, keep.values(), strict=True):
        for name, axis in layer.STATE_AXIS.items():
            setattr(layer, name, nnx.Param(jnp.compress(mask, getattr(layer, name)[...], axis=axis)))
    return small


network = Network(4, (24, 24), nnx.Rngs(0))
modes = {f"layer {i}": aire.Modes.discrete(*layer.discrete()) for i, layer in enumerate(network.layers)}

# %% [markdown]
# ## A score of your own
#
# A score is a function of a layer's modes: one non-negative number per state, higher matters more. Once registered,
# its name works wherever a method's name does. This one is the squared response to a constant input. On white noise,
# which `aire` is derived for, it chooses worse.


# %%
@aire.pruning.scores.register("dc_gain", stable=True)
def dc_gain(modes):
    size = jnp.linalg.norm(modes.C, axis=(0, 1)) * jnp.linalg.norm(modes.B_bar, axis=1)
    return (size / jnp.abs(1 - modes.Lambda_bar)) ** 2


# %%
u = rng.normal(size=(1000, 4))
for method in ("random", "dc_gain", "aire"):
    keep = aire.select(aire.score(modes, method), ratio=0.5)
    pruned = cut_network(network, keep)
    error = jnp.linalg.norm(pruned(u) - network(u)) / jnp.linalg.norm(network(u))
    print(f"{method:8} keeps {[int(mask.sum()) for mask in keep.values()]} states, relative error {error:.0%}")

# %% [markdown]
# ## A checkpoint of AIRE-Prune's code
#
# `aire.convert.from_file` reads the training states of S5, LAST and AIRE-Prune, and other formats ([all of
# them](own_models.md)). Such a file has no options, so they are given. This one comes with the tests: a tiny model
# that AIRE-Prune's own code has trained and saved, with the outputs that it computed.

# %%
golden = Path(aire.__file__).parents[1] / "tests" / "golden"
ssm = aire.S5Config(bidirectional=True)
config = aire.ModelConfig(d_input=5, d_model=4, d_output=3, state_sizes=(4, 4), ssm=ssm, activation="half_glu2")
reference = aire.convert.from_file(golden / "aire_prune_state.msgpack", config)
known = np.load(golden / "aire_prune_state.npz")
x, lengths, expected = (known[f"best_state/{name}"] for name in ("x", "lengths", "log_probs"))
difference = jnp.abs(jax.nn.log_softmax(reference(x, lengths)) - expected).max()
print(f"largest difference from AIRE-Prune's own output: {difference:.0e}")

# %% [markdown]
# From here on it is a model of this package, and every method applies, also `dc_gain`.

# %%
batches = [rng.normal(size=(64, 30, 5)).astype(np.float32) for _ in range(4)]  # in place of its training inputs
for method in ("aire", "dc_gain", "surgeon"):
    result = aire.prune(reference, 0.25, method, calibration=batches)
    print(f"{method:8} keeps {result.model.config.state_sizes} states")
aire.save(result.model, "pruned_reference.safetensors")

# %% [markdown]
# ## A Mamba of Hugging Face
#
# `aire.convert.mamba` takes the folder of a `MambaForCausalLM`, a file of it, or its state dict and config. The
# states of a Mamba depend on the input, so that most scores need calibration inputs: [selective
# layers](selective.md). Hugging Face has one number of states for all layers, so cut with `scope="uniform"` to go
# back.

# %%
stored = np.load(golden / "mamba_models.npz")
prefix = "plain/state_dict/"
state_dict = {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}
mamba = aire.convert.mamba(state_dict, json.loads(str(stored["plain/config"])))

texts = [rng.integers(0, 9, (32, 50))]  # of 9 tokens, in place of real ones
result = aire.prune(mamba, ratio=1 / 3, method="measured_output", scope="uniform", calibration=texts)
print("states of each layer:", mamba.config.state_sizes, "→", result.model.config.state_sizes)
aire.convert.to_hugging_face(result.model, "pruned_mamba")
assert aire.convert.mamba("pruned_mamba").config.state_sizes == (2, 2)
