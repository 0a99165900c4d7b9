"""Import the S4D reference (state-spaces, `models/s4/s4d.py` and `S4Model` in `example.py`).

The state dict of a layer has `kernel.log_A_real`, `kernel.A_imag (H, N/2)`, `kernel.C (H, N/2, 2)` with real and
imaginary part last, `kernel.log_dt`, `D (H,)`, and a 1×1 convolution before a GLU: `output_linear.0.weight (2H, H, 1)`,
`output_linear.0.bias (2H,)`. That of a model has `encoder`, `s4_layers.I`, `norms.I` (layer norm) and `decoder`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aire.convert.arrays import Arrays, Shapes, check_options, check_shapes, count_layers, flatten, shape_of, subtree
from aire.convert.readers import read_torch
from aire.io.weights import fill_model, set_arrays
from aire.models import Classifier, ModelConfig
from aire.ssm import S4DConfig, S4DLayer
from aire.ssm.abstract import abstract

# Options of every model of the reference. Not all of them can be inferred from the arrays.
_MODEL: dict[str, Any] = {"activation": "glu", "batchnorm": False, "retrieval": False}
_SSM: dict[str, Any] = {"bidirectional": False, "discretization": "zoh"}
_FIXED = _MODEL | {f"ssm.{name}": value for name, value in _SSM.items()}


def s4d_layer(state_dict: Mapping) -> S4DLayer:
    """Convert the parameters of a reference `S4D` to an S4D layer with its output activation and linear map.

    Args:
        state_dict: nested or flat mapping of arrays with the reference's names.
    Raises:
        UserError: names are missing or unknown, or shapes are inconsistent. All problems are listed.
    """
    arrays = _dotted(state_dict)
    H, pairs = shape_of(arrays, "kernel.log_A_real", "H, N/2")
    check_shapes(arrays, _shapes(H, pairs), "the given state dict")
    layer = abstract(lambda rngs: S4DLayer(H, H * pairs, S4DConfig(), rngs=rngs))
    set_arrays(layer, _ssm_arrays(arrays) | _output_arrays(arrays), "the given state dict")
    return layer


def s4d_model(state_dict: Mapping, *, prenorm: bool, pooling: str = "mean", dropout: float = 0.0) -> Classifier:
    """Convert the state dict of a reference `S4Model` to a model in evaluation mode.

    Args:
        state_dict: nested or flat mapping of arrays with the reference's names. Sizes are inferred from it.
        prenorm, dropout: the options used in training.
        pooling: "mean" as in the reference, or "masked_mean" for padded sequences.
    Raises:
        UserError: names are missing or unknown, or shapes are inconsistent. All problems are listed.
    """
    arrays = _dotted(state_dict)
    d_model, d_input = shape_of(arrays, "encoder.weight", "H, d_input")
    layers = range(count_layers(arrays, r"s4_layers\.([0-9]{1,6})\."))
    state_sizes = [np.prod(shape_of(arrays, f"s4_layers.{i}.kernel.log_A_real", "H, N/2")) for i in layers]
    config = ModelConfig(
        d_input=d_input,
        d_model=d_model,
        d_output=shape_of(arrays, "decoder.bias", "d_output")[0],
        state_sizes=tuple(map(int, state_sizes)),
        ssm=S4DConfig(**_SSM),
        prenorm=prenorm,
        pooling=pooling,
        dropout=dropout,
        **_MODEL,
    )
    return fill_s4d(config, arrays, "the given state dict")


def from_checkpoint(path: Path, config: ModelConfig) -> Classifier:
    """Implement `aire.convert.from_file` for models with S4D layers.

    Reads PyTorch `.pt` and `.pth` files. PyTorch must be installed (`pip install torch`).
    """
    return fill_s4d(config, read_torch(path), str(path))


def fill_s4d(config: ModelConfig, state_dict: Mapping, source: str) -> Classifier:
    """Build the model of a config from the reference's state dict, in evaluation mode.

    Args:
        config: of a model with S4D layers.
        state_dict: as in `s4d_model`.
        source: the origin of the state dict, for messages.
    Raises:
        UserError: names or shapes do not fit the config, or the reference does not support its options. All problems
            are listed.
    """
    check_options(config, _FIXED, "the S4D reference", source)
    arrays = _dotted(state_dict)
    check_shapes(arrays, _model_shapes(config), source)
    ours = _linear(arrays, "encoder") | _linear(arrays, "decoder")
    for i in range(len(config.state_sizes)):
        layer = subtree(arrays, f"s4_layers.{i}.")
        ours |= {f"blocks/{i}/ssm/{name}": array for name, array in _ssm_arrays(layer).items()}
        ours |= {f"blocks/{i}/{name}": array for name, array in _output_arrays(layer).items()}
        ours |= {
            f"blocks/{i}/norm/scale": arrays[f"norms.{i}.weight"],
            f"blocks/{i}/norm/bias": arrays[f"norms.{i}.bias"],
        }
    return fill_model(config, ours, source)


def _dotted(state_dict: Mapping) -> Arrays:
    return {name.replace("/", "."): array for name, array in flatten(state_dict).items()}


def _model_shapes(config: ModelConfig) -> Shapes:
    H = config.d_model
    shapes = {"encoder.weight": (H, config.d_input), "encoder.bias": (H,)}
    shapes |= {"decoder.weight": (config.d_output, H), "decoder.bias": (config.d_output,)}
    for i, n in enumerate(config.state_sizes):
        shapes |= {f"s4_layers.{i}.{name}": shape for name, shape in _shapes(H, n // H).items()}
        shapes |= {f"norms.{i}.weight": (H,), f"norms.{i}.bias": (H,)}
    return shapes


def _shapes(H: int, pairs: int) -> Shapes:
    """Return the shapes that the reference stores for a layer with N/2 conjugate pairs per channel."""
    return {
        "kernel.log_A_real": (H, pairs),
        "kernel.A_imag": (H, pairs),
        "kernel.C": (H, pairs, 2),
        "kernel.log_dt": (H,),
        "D": (H,),
        "output_linear.0.weight": (2 * H, H, 1),
        "output_linear.0.bias": (2 * H,),
    }


def _linear(arrays: Arrays, name: str) -> Arrays:
    return {f"{name}/kernel": arrays[f"{name}.weight"].T, f"{name}/bias": arrays[f"{name}.bias"]}


def _ssm_arrays(layer: Arrays) -> Arrays:
    """Convert checked parameters of a layer to a flat list of states."""
    H, pairs = layer["kernel.log_A_real"].shape
    C = layer["kernel.C"].reshape(1, H * pairs, 2)
    return {
        "log_A_real": layer["kernel.log_A_real"].reshape(-1),
        "A_imag": layer["kernel.A_imag"].reshape(-1),
        "C_re": C[..., 0],
        "C_im": C[..., 1],
        "channel": np.repeat(np.arange(H, dtype=np.int32), pairs),
        "log_dt": layer["kernel.log_dt"],
        "D": layer["D"],
    }


def _output_arrays(layer: Arrays) -> Arrays:
    """Split the 1×1 convolution before the GLU into two linear maps, values and gates."""
    values, gates = np.split(layer["output_linear.0.weight"][..., 0].T, 2, axis=1)
    values_bias, gates_bias = np.split(layer["output_linear.0.bias"], 2)
    return {"out1/kernel": values, "out1/bias": values_bias, "out2/kernel": gates, "out2/bias": gates_bias}
