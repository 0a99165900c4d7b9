"""Import CompreSSM's LRU (camail-official/compressm, `models/lru.py`).

A layer has `nu_log`, `theta_log`, `gamma_log (N,)`, `B_re`, `B_im (N, H)`, `C_re`, `C_im (H, N)` and `D (H,)`, named as
in the LRU paper's code. A model's arrays are named by their paths in the Equinox module, joined by "/":
`linear_encoder/{weight,bias}`, without bias if tokens are embedded; `blocks/I/lru/NAME`;
`blocks/I/glu/{w1,w2}/{weight,bias}`; `linear_layer/{weight,bias}`. The running statistics of batch norm are in
Equinox's `State`: `blocks/I/norm/{ema_mean,ema_var}` are the pair at `blocks[I].norm.ema_state_index`, and
`blocks/I/norm/ema_first_time` is the flag at `ema_first_time_index`.

CompreSSM does not save weights. Save them under these names with `numpy.savez(path, **arrays)`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aire.convert.arrays import Arrays, Shapes, check_options, check_shapes, count_layers, flatten, shape_of, subtree
from aire.convert.readers import check_format, check_zip
from aire.io.weights import fill_model, set_arrays
from aire.models import Classifier, ModelConfig
from aire.ssm import LRU, LRUConfig
from aire.ssm.abstract import abstract
from aire.utils.errors import UserError

# Options of every CompreSSM model. Not all of them can be inferred from the arrays.
_MODEL: dict[str, Any] = {"activation": "full_glu", "prenorm": True, "batchnorm": True, "retrieval": False}
_FIXED = _MODEL | {"ssm.bidirectional": False}
_FIRST_TIME = "norm/ema_first_time"


def lru_layer(params: Mapping) -> LRU:
    """Convert the parameters of a `LRULayer` to an LRU layer.

    Args:
        params: flat mapping of arrays with CompreSSM's names.
    Raises:
        UserError: names are missing or unknown, or shapes are inconsistent. All problems are listed.
    """
    arrays, source = flatten(params), "the given parameters"
    N, H = shape_of(arrays, "B_re", "N, H")
    check_shapes(arrays, _layer_shapes(H, N), source)
    layer = abstract(lambda rngs: LRU(H, N, LRUConfig(), rngs=rngs))
    set_arrays(layer, _layer_arrays(arrays), source)
    return layer


def lru_model(variables: Mapping, *, pooling: str = "mean", dropout: float = 0.0) -> Classifier:
    """Convert an `LRU` that classifies single sequences to a model in evaluation mode.

    Sizes are inferred from the arrays. An encoder without bias is an embedding, so the model takes tokens (B, L).

    Args:
        variables: nested or flat mapping of arrays with CompreSSM's names.
        pooling: "mean" as in CompreSSM, or "masked_mean" for padded sequences.
        dropout: the rate used in training.
    Raises:
        UserError: names are missing or unknown, or shapes are inconsistent (all problems are listed); the head is for
            two documents; or batch norm has no statistics.
    """
    arrays, source = flatten(variables), "the given variables"
    _check_head(arrays, source)
    d_output, d_model = shape_of(arrays, "linear_layer/weight", "d_output, H")
    encoder = shape_of(arrays, "linear_encoder/weight", "d_input, H" if _is_embedding(arrays) else "H, d_input")
    layers = range(count_layers(arrays, r"blocks/([0-9]{1,6})/"))
    config = ModelConfig(
        d_input=encoder[0 if _is_embedding(arrays) else 1],
        d_model=d_model,
        d_output=d_output,
        state_sizes=tuple(shape_of(arrays, f"blocks/{i}/lru/nu_log", "N")[0] for i in layers),
        ssm=LRUConfig(),
        bn_momentum=0.99,
        pooling=pooling,
        dropout=dropout,
        **_MODEL,
    )
    return fill_lru(config, arrays, source)


def from_checkpoint(path: Path, config: ModelConfig) -> Classifier:
    """Implement `aire.convert.from_file` for models with LRU layers.

    Reads NumPy `.npz` files with the arrays described in `lru_model`.
    """
    return fill_lru(config, _read_npz(path), str(path))


def fill_lru(config: ModelConfig, variables: Mapping, source: str) -> Classifier:
    """Build the model of a config from CompreSSM's arrays, in evaluation mode.

    Args:
        config: of a model with LRU layers.
        variables: as in `lru_model`.
        source: the origin of the arrays, for messages.
    Raises:
        UserError: names or shapes do not fit the config, or CompreSSM does not support its options (all problems are
            listed); the head is for two documents; or batch norm has no statistics.
    """
    arrays = {path: _numbers(path, array) for path, array in flatten(variables).items()}
    _check_head(arrays, source)
    check_options(config, _FIXED, "CompreSSM", source)
    check_shapes(arrays, _model_shapes(config, _is_embedding(arrays)), source)
    ours = _encoder_arrays(arrays) | _linear(arrays, "linear_layer", "decoder")
    for i in range(len(config.state_sizes)):
        block = subtree(arrays, f"blocks/{i}/")
        if block[_FIRST_TIME]:
            raise UserError(f"{source}: the batch norm of blocks/{i} was never trained, so it has no statistics")
        ours |= {f"blocks/{i}/{name}": array for name, array in _block_arrays(block).items()}
    return fill_model(config, ours, source)


def _read_npz(path: Path) -> Arrays:
    check_format(path, path.suffix == ".npz", "a NumPy .npz file")
    try:
        check_zip(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except UserError:
        raise
    except Exception as error:  # corrupt input raises many exception types
        reason = f"{type(error).__name__} {error}".partition("\n")[0]
        raise UserError(f"{path} is damaged or not an .npz file of numeric arrays: {reason}") from error


def _numbers(path: str, array: np.ndarray) -> np.ndarray:
    """Convert the flag of batch norm to a number, so that all arrays pass the same checks."""
    return array.astype(np.float32) if path.endswith(_FIRST_TIME) and array.dtype == bool else array


def _check_head(arrays: Arrays, source: str) -> None:
    if subtree(arrays, "dual_head/"):
        raise UserError(
            f"{source}: dual_head, CompreSSM's three-layer head for two documents, is not supported: "
            "only models with a linear_layer can be imported"
        )


def _is_embedding(arrays: Arrays) -> bool:
    return "linear_encoder/bias" not in arrays


def _model_shapes(config: ModelConfig, embedding: bool) -> Shapes:
    H = config.d_model
    encoder = {"weight": (config.d_input, H)} if embedding else {"weight": (H, config.d_input), "bias": (H,)}
    shapes: Shapes = {f"linear_encoder/{name}": shape for name, shape in encoder.items()}
    shapes |= {"linear_layer/weight": (config.d_output, H), "linear_layer/bias": (config.d_output,)}
    linear = {"weight": (H, H), "bias": (H,)}
    for i, N in enumerate(config.state_sizes):
        block = {f"lru/{name}": shape for name, shape in _layer_shapes(H, N).items()}
        block |= {f"glu/{w}/{name}": shape for w in ("w1", "w2") for name, shape in linear.items()}
        block |= {"norm/ema_mean": (H,), "norm/ema_var": (H,), _FIRST_TIME: ()}
        shapes |= {f"blocks/{i}/{name}": shape for name, shape in block.items()}
    return shapes


def _layer_shapes(H: int, N: int) -> Shapes:
    """Return the shapes that CompreSSM stores for a layer with N states."""
    states = dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (N,))
    return {**states, "B_re": (N, H), "B_im": (N, H), "C_re": (H, N), "C_im": (H, N), "D": (H,)}


def _layer_arrays(params: Arrays) -> Arrays:
    """Convert checked parameters of a layer. Names stay the same; C gets an axis of directions."""
    return params | {name: params[name][None] for name in ("C_re", "C_im")}


def _block_arrays(block: Arrays) -> Arrays:
    """Convert checked arrays of a block. CompreSSM's batch norm has no scale and bias; set them to 1 and 0."""
    mean = block["norm/ema_mean"]
    norm = {"mean": mean, "var": block["norm/ema_var"], "scale": np.ones_like(mean), "bias": np.zeros_like(mean)}
    ours = {f"ssm/{name}": array for name, array in _layer_arrays(subtree(block, "lru/")).items()}
    ours |= {f"norm/{name}": array for name, array in norm.items()}
    return ours | _linear(block, "glu/w1", "out1") | _linear(block, "glu/w2", "out2")


def _encoder_arrays(arrays: Arrays) -> Arrays:
    """Convert the encoder. An embedding becomes a linear map of one-hot tokens without bias."""
    if not _is_embedding(arrays):
        return _linear(arrays, "linear_encoder", "encoder")
    weight = arrays["linear_encoder/weight"]
    return {"encoder/kernel": weight, "encoder/bias": np.zeros_like(weight[0])}


def _linear(arrays: Arrays, name: str, ours: str) -> Arrays:
    return {f"{ours}/kernel": arrays[f"{name}/weight"].T, f"{ours}/bias": arrays[f"{name}/bias"]}
