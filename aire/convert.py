"""Weights of the reference implementations into our layers and models.

The S5 reference (lindermanlab/S5, and the LAST and AIRE-Prune code built on it) stores complex arrays with the real and
imaginary part last: `B (P, H, 2)`, `C (H, P, 2)`, or `C1` and `C2` where bidirectional, or `C (H, 2P, 2)` for both
directions at once; `Lambda_re`, `Lambda_im`, `log_step (P, 1)`, `D (H,)`.

The S4D reference (state-spaces, `s4d.py`) stores `kernel.log_A_real`, `kernel.A_imag (H, N/2)`, `kernel.C (H, N/2, 2)`,
`kernel.log_dt`, `D (H,)`, and a 1×1 convolution before a GLU: `output_linear.0.weight (2H, H, 1)`, `….bias (2H,)`.
"""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from aire.errors import UserError
from aire.models import Classifier, ModelConfig
from aire.ssm import S5, S4DConfig, S4DLayer, S5Config
from aire.weights import check_arrays, set_arrays

Arrays = dict[str, np.ndarray]  # by path, "a/b/c"


def s5_layer(
    params: Mapping,
    *,
    conj_sym: bool,
    bidirectional: bool,
    discretization: str,
    clip_eigs: bool = False,
    step_rescale: float = 1.0,
) -> S5:
    """An S5 layer from the reference's parameters of one `S5SSM`.

    Args:
        params: nested or flat mapping of arrays with the reference's names.
        conj_sym, bidirectional, discretization, clip_eigs, step_rescale: the options it was made with.
    Raises:
        UserError: a missing or unknown name, or a shape that disagrees with the others; all are listed.
    """
    config = S5Config(
        conj_sym=conj_sym,
        bidirectional=bidirectional,
        discretization=discretization,
        clip_eigs=clip_eigs,
        step_rescale=float(step_rescale),
    )
    arrays = _s5_arrays(_flatten(params), bidirectional)
    P, H = arrays["B_re"].shape
    layer = nnx.eval_shape(lambda: S5(H, P, config, rngs=nnx.Rngs(0)))
    set_arrays(layer, arrays, "the given parameters")
    return layer


def s4d_layer(state_dict: Mapping) -> S4DLayer:
    """An S4D layer, with its output activation and linear map, from the reference's parameters of one `S4D`.

    Args:
        state_dict: nested or flat mapping of arrays with the reference's names.
    Raises:
        UserError: a missing or unknown name, or a shape that disagrees with the others; all are listed.
    """
    arrays = _s4d_arrays({name.replace("/", "."): array for name, array in _flatten(state_dict).items()})
    H, n = arrays["D"].size, arrays["A_imag"].size
    layer = nnx.eval_shape(lambda: S4DLayer(H, n, S4DConfig(), rngs=nnx.Rngs(0)))
    set_arrays(layer, arrays, "the given state dict")
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
    """A whole model, in evaluation mode, from the reference's `{"params": …, "batch_stats": …}`.

    Sizes are read off the arrays, and so are the directions where `bidirectional` is None.

    Args:
        variables: nested or flat mapping of arrays with the reference's names.
        pooling: "mean", "masked_mean" or "last"; the reference's own word "pool" means "mean".
        The other options: those the model was trained with.
    Raises:
        UserError: a missing or unknown name, or a shape that disagrees with the options; all are listed.
    """
    arrays = _model_arrays(_flatten(variables), bidirectional)
    config = ModelConfig(
        d_input=_need(arrays, "encoder/kernel").shape[0],
        d_model=arrays["encoder/kernel"].shape[1],
        d_output=_need(arrays, "decoder/layer2/bias" if retrieval else "decoder/bias").shape[0],
        state_sizes=tuple(arrays[f"blocks/{i}/ssm/Lambda_re"].shape[0] for i in range(_depth(arrays))),
        ssm=S5Config(
            conj_sym=conj_sym,
            bidirectional=_need(arrays, "blocks/0/ssm/C_re").shape[0] == 2,
            discretization=discretization,
            clip_eigs=clip_eigs,
            step_rescale=float(step_rescale),
        ),
        activation=activation,
        prenorm=prenorm,
        batchnorm=batchnorm,
        bn_momentum=bn_momentum,
        dropout=dropout,
        pooling="mean" if pooling == "pool" else pooling,
        retrieval=retrieval,
    )
    model = nnx.eval_shape(lambda: Classifier(config, rngs=nnx.Rngs(0)))
    set_arrays(model, arrays, "the given variables")
    model.eval()
    return model


def _flatten(tree: Mapping, prefix: str = "") -> Arrays:
    """Nested or flat mapping to one level with "/" between names."""
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= _flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: np.asarray(value)}
    return flat


def _need(arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"missing array {name!r}; given: {sorted(arrays)}")
    return arrays[name]


def _depth(arrays: Arrays) -> int:
    return 1 + max((int(path.split("/")[1]) for path in arrays if path.startswith("blocks/")), default=-1)


def _s5_arrays(params: Arrays, bidirectional: bool | None) -> Arrays:
    """The reference's parameters of one layer under our names: complex pairs split, directions stacked first."""
    params = dict(params)
    P = _need(params, "Lambda_re").shape[0]
    if "C1" in params:
        C = np.stack([params.pop("C1"), _need(params, "C2")])
        del params["C2"]
    else:
        C = _need(params, "C")
        del params["C"]
        C = np.stack(np.split(C, 2, axis=1)) if C.shape[1] == 2 * P and P else C[None]
    if bidirectional is not None and len(C) != 1 + bidirectional:
        raise UserError(f"C holds {len(C)} direction(s), but bidirectional={bidirectional}")
    B = _need(params, "B")
    log_step = _need(params, "log_step").reshape(-1)
    rest = {name: a for name, a in params.items() if name not in ("B", "log_step")}
    split = {"B_re": B[..., 0], "B_im": B[..., 1], "C_re": C[..., 0], "C_im": C[..., 1]}
    return rest | split | {"log_step": log_step}


def _s4d_arrays(state_dict: Arrays) -> Arrays:
    """The reference's parameters of one layer under our names: one flat list of states, values and gates apart."""
    H, pairs = _check_s4d(state_dict)
    C = state_dict["kernel.C"].reshape(1, H * pairs, 2)
    kernels = np.split(state_dict["output_linear.0.weight"][..., 0].T, 2, axis=1)
    biases = np.split(state_dict["output_linear.0.bias"], 2)
    return {
        "log_A_real": state_dict["kernel.log_A_real"].reshape(-1),
        "A_imag": state_dict["kernel.A_imag"].reshape(-1),
        "C_re": C[..., 0],
        "C_im": C[..., 1],
        "channel": np.repeat(np.arange(H, dtype=np.int32), pairs),
        "log_dt": state_dict["kernel.log_dt"],
        "D": state_dict["D"],
        "out1/kernel": kernels[0],
        "out1/bias": biases[0],
        "out2/kernel": kernels[1],
        "out2/bias": biases[1],
    }


def _check_s4d(state_dict: Arrays) -> tuple[int, int]:
    """H and N/2, after a look at every name and shape."""
    shape = _need(state_dict, "kernel.log_A_real").shape
    if len(shape) != 2:
        raise UserError(f"kernel.log_A_real has shape {shape}, expected (H, N/2)")
    H, pairs = shape
    shapes = {
        "kernel.log_A_real": (H, pairs),
        "kernel.A_imag": (H, pairs),
        "kernel.C": (H, pairs, 2),
        "kernel.log_dt": (H,),
        "D": (H,),
        "output_linear.0.weight": (2 * H, H, 1),
        "output_linear.0.bias": (2 * H,),
    }
    expected = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    check_arrays(state_dict, expected, "the given state dict")
    return H, pairs


def _model_arrays(variables: Arrays, bidirectional: bool | None) -> Arrays:
    """The reference's variables under our paths: encoder/…, blocks/I/{ssm,norm,out1,out2}/…, decoder/…."""
    arrays, layers = {}, {}
    for path, array in variables.items():
        path = path.removeprefix("params/").removeprefix("batch_stats/")
        match path.split("/"):
            case ["encoder", layer, "seq", name] if layer.startswith("layers_"):
                layers.setdefault(layer.removeprefix("layers_"), {})[name] = array
            case ["encoder", layer, *rest] if layer.startswith("layers_"):
                arrays["/".join(["blocks", layer.removeprefix("layers_"), *rest])] = array
            case ["encoder", *rest]:
                arrays["/".join(rest)] = array
            case _:
                arrays[path] = array
    for index, params in layers.items():
        ssm = _s5_arrays(params, bidirectional)
        arrays |= {f"blocks/{index}/ssm/{name}": array for name, array in ssm.items()}
    return arrays
