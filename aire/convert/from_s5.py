"""Import the S5 reference (lindermanlab/S5, and the LAST and AIRE-Prune code built on it).

Complex arrays have the real and imaginary part last: `B (P, H, 2)` and `C (H, P, 2)`. Bidirectional layers have `C1`
and `C2`, or `C (H, 2P, 2)` for both directions. The other arrays are `Lambda_re`, `Lambda_im`, `log_step (P, 1)` and
`D (H,)`.

A model is a Flax tree: `params/encoder/encoder`, `params/encoder/layers_I/{seq,norm,out1,out2}`, `params/decoder`, and
with batch norm `batch_stats/encoder/layers_I/norm`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aire.convert.arrays import Arrays, Shapes, check_shapes, count_layers, flatten, shape_of, subtree
from aire.convert.readers import read_flax
from aire.io.weights import abstract_model, fill_model, set_arrays, variables_of
from aire.models import Classifier, ModelConfig
from aire.ssm import S5, S5Config
from aire.ssm.abstract import abstract
from aire.utils.errors import UserError

_LAYER = "params/encoder/layers_{}/seq/"


def s5_layer(
    params: Mapping,
    *,
    conj_sym: bool,
    bidirectional: bool,
    discretization: str,
    clip_eigs: bool = False,
    step_rescale: float = 1.0,
) -> S5:
    """Convert the parameters of a reference `S5SSM` to an S5 layer.

    Args:
        params: nested or flat mapping of arrays with the reference's names.
        conj_sym, bidirectional, discretization, clip_eigs, step_rescale: the options of the layer.
    Raises:
        UserError: names are missing or unknown, or shapes are inconsistent. All problems are listed.
    """
    config = S5Config(
        conj_sym=conj_sym,
        bidirectional=bidirectional,
        discretization=discretization,
        clip_eigs=clip_eigs,
        step_rescale=step_rescale,
    )
    arrays = flatten(params)
    (P,), (_, H, _) = shape_of(arrays, "Lambda_re", "P"), shape_of(arrays, "B", "P, H, 2")
    source = "the given parameters"
    check_shapes(arrays, _shapes(arrays, H, P, bidirectional, source), source)
    layer = abstract(lambda rngs: S5(H, P, config, rngs=rngs))
    set_arrays(layer, _our_arrays(arrays, bidirectional), source)
    return layer


def s5_model(
    variables: Mapping,
    *,
    activation: str,
    prenorm: bool,
    batchnorm: bool,
    pooling: str = "mean",
    retrieval: bool = False,
    bidirectional: bool | None = None,
    conj_sym: bool = True,
    discretization: str = "zoh",
    clip_eigs: bool = False,
    step_rescale: float = 1.0,
    bn_momentum: float = 0.95,
    dropout: float = 0.0,
) -> Classifier:
    """Convert the reference's `{"params": …, "batch_stats": …}` to a model in evaluation mode.

    Sizes are inferred from the arrays. So is the number of directions if `bidirectional` is None.

    Args:
        variables: nested or flat mapping of arrays with the reference's names.
        pooling: "mean", "masked_mean" or "last"; "pool", the reference's name, means "mean".
        The other options are those used in training.
    Raises:
        UserError: names are missing or unknown, or shapes do not fit the options. All problems are listed.
    """
    arrays = _with_collections(flatten(variables))
    d_input, d_model = shape_of(arrays, "params/encoder/encoder/kernel", "d_input, H")
    (d_output,) = shape_of(arrays, "params/decoder/layer2/bias" if retrieval else "params/decoder/bias", "d_output")
    layers = range(count_layers(arrays, _LAYER.format("([0-9]{1,6})")))
    state_sizes = [shape_of(arrays, _LAYER.format(i) + "Lambda_re", "P")[0] for i in layers]
    if bidirectional is None:
        bidirectional = _is_bidirectional(subtree(arrays, _LAYER.format(0)))
    config = ModelConfig(
        d_input=d_input,
        d_model=d_model,
        d_output=d_output,
        state_sizes=tuple(state_sizes),
        ssm=S5Config(
            conj_sym=conj_sym,
            bidirectional=bool(bidirectional),
            discretization=discretization,
            clip_eigs=clip_eigs,
            step_rescale=step_rescale,
        ),
        activation=activation,
        prenorm=prenorm,
        batchnorm=batchnorm,
        bn_momentum=bn_momentum,
        dropout=dropout,
        pooling="mean" if pooling == "pool" else pooling,
        retrieval=retrieval,
    )
    return fill_s5(config, arrays, "the given variables")


def from_checkpoint(path: Path, config: ModelConfig) -> Classifier:
    """Implement `aire.convert.from_file` for models with S5 layers.

    Reads Flax `.msgpack` and `checkpoint_N` files and Orbax folders: a checkpoint, a step of a `CheckpointManager`, or
    the folder of a `CheckpointManager` with a single step.
    """
    return fill_s5(config, read_flax(path), str(path))


def fill_s5(config: ModelConfig, variables: Mapping, source: str) -> Classifier:
    """Build the model of a config from the reference's variables, in evaluation mode.

    Args:
        config: of a model with S5 layers.
        variables: as in `s5_model`.
        source: the origin of the variables, for messages.
    Raises:
        UserError: names, shapes, directions or conjugate symmetry do not fit the config. All names and shapes that do
            not fit are listed.
    """
    arrays = _with_collections(flatten(variables))
    layers = {i: subtree(arrays, _LAYER.format(i)) for i in range(len(config.state_sizes))}
    names = {path: _reference_name(path) for path in variables_of(abstract_model(config)) if "/ssm/" not in path}
    check_shapes(arrays, _model_shapes(config, layers, names, source), source)
    _check_conj_sym(layers, config.ssm.conj_sym, source)
    ours = {path: arrays[name] for path, name in names.items()}
    for i, layer in layers.items():
        ours |= {
            f"blocks/{i}/ssm/{name}": array for name, array in _our_arrays(layer, config.ssm.bidirectional).items()
        }
    return fill_model(config, ours, source)


def _with_collections(arrays: Arrays) -> Arrays:
    """Add the collection "params" to paths that do not start with a collection."""
    if any(path.startswith("params/") for path in arrays):
        return arrays
    return {path if path.startswith("batch_stats/") else f"params/{path}": array for path, array in arrays.items()}


def _reference_name(path: str) -> str:
    """Map our path of an array outside the state space layers to the reference's path."""
    match path.split("/"):
        case ["blocks", layer, module, name]:
            collection = "batch_stats" if name in ("mean", "var") else "params"
            return f"{collection}/encoder/layers_{layer}/{module}/{name}"
        case ["encoder", name]:
            return f"params/encoder/encoder/{name}"
    return f"params/{path}"


def _model_shapes(config: ModelConfig, layers: Mapping[int, Arrays], names: Mapping[str, str], source: str) -> Shapes:
    variables = variables_of(abstract_model(config))
    shapes = {name: variables[path].shape for path, name in names.items()}
    for i, P in enumerate(config.state_sizes):
        layer = _shapes(layers[i], config.d_model, P, config.ssm.bidirectional, source)
        shapes |= {_LAYER.format(i) + name: shape for name, shape in layer.items()}
    return shapes


def _shapes(params: Arrays, H: int, P: int, bidirectional: bool, source: str) -> Shapes:
    """Return the shapes that the reference stores for a layer. The names of `params` determine the form of C."""
    found = _is_bidirectional(params)
    if found is not None and found != bidirectional:
        raise UserError(f"{source}: C holds {1 + found} direction(s), but bidirectional={bidirectional}")
    pair = bidirectional and params.keys() & {"C1", "C2"}
    C = {"C1": (H, P, 2), "C2": (H, P, 2)} if pair else {"C": (H, P * (1 + bidirectional), 2)}
    return {"Lambda_re": (P,), "Lambda_im": (P,), "log_step": (P, 1), "B": (P, H, 2), "D": (H,)} | C


def _is_bidirectional(params: Arrays) -> bool | None:
    """Return whether C has two directions; None if this cannot be determined."""
    if params.keys() & {"C1", "C2"}:
        return True
    C, Lambda = params.get("C"), params.get("Lambda_re")
    if C is None or C.ndim != 3 or Lambda is None or Lambda.size == 0:
        return None
    return C.shape[1] == 2 * Lambda.size


def _our_arrays(params: Arrays, bidirectional: bool) -> Arrays:
    """Convert checked parameters of a layer: split complex pairs, stack directions first."""
    if "C1" in params:
        C = np.stack([params["C1"], params["C2"]])
    else:
        C = np.stack(np.split(params["C"], 1 + bidirectional, axis=1))
    return {
        "Lambda_re": params["Lambda_re"],
        "Lambda_im": params["Lambda_im"],
        "log_step": params["log_step"][:, 0],
        "B_re": params["B"][..., 0],
        "B_im": params["B"][..., 1],
        "C_re": C[..., 0],
        "C_im": C[..., 1],
        "D": params["D"],
    }


def _check_conj_sym(layers: Mapping[int, Arrays], conj_sym: bool, source: str) -> None:
    """Raise UserError if the eigenvalues contradict `conj_sym`.

    Shapes do not depend on `conj_sym`, but outputs would be wrong by a factor of 2. Without symmetry, spectra are
    initialised as conjugate pairs. With symmetry, the reference stores the member of each pair below the real axis.
    """
    imag = np.concatenate([layer["Lambda_im"] for layer in layers.values()])
    upper, lower = np.sort(imag[imag > 0]), np.sort(-imag[imag < 0])
    if not conj_sym and imag.size > 1 and imag.size in (upper.size, lower.size):
        raise UserError(
            f"{source}: all eigenvalues are on one side of the real axis, which suggests one of each conjugate pair, "
            "but conj_sym=False"
        )
    if conj_sym and upper.size and upper.size == lower.size and np.allclose(upper, lower, rtol=0.1):
        raise UserError(f"{source}: the eigenvalues are complete conjugate pairs, but conj_sym=True")
