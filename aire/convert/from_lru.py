"""CompreSSM's LRU (camail-official/compressm, `models/lru.py`) into our layers and models.

One layer holds `nu_log`, `theta_log`, `gamma_log (N,)`, `B_re`, `B_im (N, H)`, `C_re`, `C_im (H, N)` and `D (H,)`, the
names of the LRU paper's code. A model's arrays are named by their paths in the Equinox module, joined by "/":
`linear_encoder/{weight,bias}`, or the weight alone where tokens are embedded; `blocks/I/lru/NAME`;
`blocks/I/glu/{w1,w2}/{weight,bias}`; `linear_layer/{weight,bias}`. Batch norm keeps its running statistics in Equinox's
`State` instead: `blocks/I/norm/{ema_mean,ema_var}` are the pair at `blocks[I].norm.ema_state_index`, and
`blocks/I/norm/ema_first_time` the flag at `ema_first_time_index`.

CompreSSM saves no weights itself. Write a file of them with `numpy.savez(path, **arrays)` under these names.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from aire.convert.arrays import Arrays, Shapes, below, check_options, check_shapes, depth, flatten, sizes
from aire.convert.readers import check_format
from aire.io.weights import fill_model, set_arrays
from aire.models import Classifier, ModelConfig
from aire.ssm import LRU, LRUConfig
from aire.utils.errors import UserError

# What CompreSSM's model always is. Not all of it shows in the arrays.
_MODEL = {"activation": "full_glu", "prenorm": True, "batchnorm": True, "retrieval": False}
_FIXED = _MODEL | {"ssm.bidirectional": False}
_FIRST_TIME = "norm/ema_first_time"


def lru_layer(params: Mapping) -> LRU:
    """An LRU layer from the parameters of one `LRULayer`.

    Args:
        params: flat mapping of arrays with CompreSSM's names.
    Raises:
        UserError: a missing or unknown name, or a shape that disagrees with the others; all are listed.
    """
    arrays, source = flatten(params), "the given parameters"
    N, H = sizes(arrays, "B_re", "N, H")
    check_shapes(arrays, _layer_shapes(H, N), source)
    layer = nnx.eval_shape(lambda: LRU(H, N, LRUConfig(), rngs=nnx.Rngs(0)))
    set_arrays(layer, _layer_arrays(arrays), source)
    return layer


def lru_model(variables: Mapping, *, pooling: str = "mean", dropout: float = 0.0) -> Classifier:
    """A whole model, in evaluation mode, from the arrays of an `LRU` that classifies single sequences.

    Sizes are read off the arrays. An encoder without bias is an embedding, and its model takes tokens (B, L).

    Args:
        variables: nested or flat mapping of arrays with CompreSSM's names.
        pooling: "mean" is CompreSSM's; "masked_mean" where sequences are padded.
        dropout: the rate it was trained with.
    Raises:
        UserError: a missing or unknown name, or a shape that disagrees with the others; all are listed. A head for
            two documents, or batch norm that has seen no batch.
    """
    arrays, source = flatten(variables), "the given variables"
    _check_head(arrays, source)
    d_output, d_model = sizes(arrays, "linear_layer/weight", "d_output, H")
    encoder = sizes(arrays, "linear_encoder/weight", "d_input, H" if _is_embedding(arrays) else "H, d_input")
    layers = range(depth(arrays, r"blocks/(\d+)/"))
    config = ModelConfig(
        d_input=encoder[0 if _is_embedding(arrays) else 1],
        d_model=d_model,
        d_output=d_output,
        state_sizes=tuple(sizes(arrays, f"blocks/{i}/lru/nu_log", "N")[0] for i in layers),
        ssm=LRUConfig(),
        bn_momentum=0.99,
        pooling=pooling,
        dropout=dropout,
        **_MODEL,
    )
    return fill_lru(config, arrays, source)


def from_checkpoint(path: Path, config: ModelConfig) -> Classifier:
    """`aire.convert.from_file` for models with LRU layers.

    Reads `.npz` files of NumPy with the arrays of `lru_model`.
    """
    return fill_lru(config, _read_npz(path), str(path))


def fill_lru(config: ModelConfig, variables: Mapping, source: str) -> Classifier:
    """The model that a config describes, in evaluation mode, with CompreSSM's arrays.

    Args:
        config: of a model with LRU layers.
        variables: as in `lru_model`.
        source: where the arrays come from, for messages.
    Raises:
        UserError: names and shapes that disagree with the config, or options that CompreSSM does not have; all are
            listed. A head for two documents, or batch norm that has seen no batch.
    """
    arrays = {path: _numbers(path, array) for path, array in flatten(variables).items()}
    _check_head(arrays, source)
    check_options(config, _FIXED, "CompreSSM", source)
    check_shapes(arrays, _model_shapes(config, _is_embedding(arrays)), source)
    ours = _encoder_arrays(arrays) | _linear(arrays, "linear_layer", "decoder")
    for i in range(len(config.state_sizes)):
        block = below(arrays, f"blocks/{i}/")
        if block[_FIRST_TIME]:
            raise UserError(f"{source}: the batch norm of blocks/{i} has seen no batch, so it has no statistics")
        ours |= {f"blocks/{i}/{name}": array for name, array in _block_arrays(block).items()}
    return fill_model(config, ours, source)


def _read_npz(path: Path) -> Arrays:
    check_format(path, path.suffix == ".npz", "a .npz file of NumPy")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # corrupt input raises many exception types
        reason = f"{type(error).__name__} {error}".partition("\n")[0]
        raise UserError(f"{path} is damaged or not a .npz file of arrays of numbers: {reason}") from error


def _numbers(path: str, array: np.ndarray) -> np.ndarray:
    """The array, with batch norm's flag as a number: all are then checked alike."""
    return array.astype(np.float32) if path.endswith(_FIRST_TIME) and array.dtype == bool else array


def _check_head(arrays: Arrays, source: str) -> None:
    if below(arrays, "dual_head/"):
        raise UserError(
            f"{source}: dual_head is CompreSSM's head for two documents, three layers on both features side by side. "
            "There is no such head here: only models with a linear_layer can be imported"
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
    """What CompreSSM stores for one layer with N states."""
    states = dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (N,))
    return {**states, "B_re": (N, H), "B_im": (N, H), "C_re": (H, N), "C_im": (H, N), "D": (H,)}


def _layer_arrays(params: Arrays) -> Arrays:
    """Checked parameters of one layer under our names, which are the same: C gets its axis of directions."""
    return params | {name: params[name][None] for name in ("C_re", "C_im")}


def _block_arrays(block: Arrays) -> Arrays:
    """Checked arrays of one block under our names. Batch norm has no scale and no bias there: here they are 1 and 0."""
    mean = block["norm/ema_mean"]
    norm = {"mean": mean, "var": block["norm/ema_var"], "scale": np.ones_like(mean), "bias": np.zeros_like(mean)}
    ours = {f"ssm/{name}": array for name, array in _layer_arrays(below(block, "lru/")).items()}
    ours |= {f"norm/{name}": array for name, array in norm.items()}
    return ours | _linear(block, "glu/w1", "out1") | _linear(block, "glu/w2", "out2")


def _encoder_arrays(arrays: Arrays) -> Arrays:
    """An embedding is a linear map of one-hot tokens, without bias."""
    if not _is_embedding(arrays):
        return _linear(arrays, "linear_encoder", "encoder")
    weight = arrays["linear_encoder/weight"]
    return {"encoder/kernel": weight, "encoder/bias": np.zeros_like(weight[0])}


def _linear(arrays: Arrays, name: str, ours: str) -> Arrays:
    return {f"{ours}/kernel": arrays[f"{name}/weight"].T, f"{ours}/bias": arrays[f"{name}/bias"]}
