"""Import Mamba language models, in the layout of Hugging Face or of state-spaces/mamba, and export them to the first.

The names of the arrays are in the tables below. Both layouts have the same, except that Hugging Face calls the
embedding `embeddings`. The head is missing in most files, because it is the embedding. Options have other names in the
two config files; where an array shows the value of an option, the two must agree.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from aire.convert.arrays import Arrays, Shapes, check_shapes, count_layers, flatten, shape_of
from aire.convert.mamba_files import read_checkpoint
from aire.io.weights import fill_model
from aire.models import MambaLM, MambaLMConfig
from aire.ssm import S6Config
from aire.ssm.s6_parameters import split_x_proj
from aire.utils.errors import UserError, differences

_GIVEN = "the given state dict"
_EMBEDDING, _HEAD = "backbone.embedding.weight", "lm_head.weight"
# By our name in a layer. x_proj and the convolution, which have other shapes here, are below.
_LAYER = {
    "in_proj": "in_proj.weight",
    "in_proj_bias": "in_proj.bias",
    "conv_bias": "conv1d.bias",
    "dt_proj": "dt_proj.weight",
    "dt_bias": "dt_proj.bias",
    "A_log": "A_log",
    "D": "D",
    "out_proj": "out_proj.weight",
    "out_proj_bias": "out_proj.bias",
}
# The names of options that arrays show, in Hugging Face's config.json and in that of state-spaces/mamba.
_SHOWN = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layer",
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "expand": "expand",
    "time_step_rank": "dt_rank",
    "use_bias": "bias",
    "use_conv_bias": "conv_bias",
}
# Options that have one value in every model that is read, and where others lead to another model.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "rms_norm": (True,),
    "d_intermediate": (0,),
    "attn_layer_idx": ([],),
}
_OTHERS = "Mamba-2 and other successors have another recurrence, which is not supported; expected Mamba (S6)"


def mamba(source: Mapping | str | os.PathLike, config: Any = None) -> MambaLM:
    """Convert a Mamba language model to a `MambaLM` in evaluation mode. All arrays become float32.

    Args:
        source: a mapping of arrays with the names of Hugging Face's MambaForCausalLM or of state-spaces/mamba; or a
            `.safetensors` or `.bin` file, or a folder with such files, also in several parts. A config.json beside
            them is read. A `.bin` file needs PyTorch, which reads it with `weights_only`.
        config: the content of config.json: a mapping, or an object with `to_dict`. Without it, the sizes are those of
            the arrays, and the norms' ε is 1e-5.
    Raises:
        UserError: a missing or damaged file; Mamba-2 or another architecture; names that are missing or unknown, or
            shapes that do not fit each other or the config. All differences are listed.
    """
    if isinstance(source, Mapping):
        arrays, where = flatten(source), _GIVEN
    else:
        arrays, found, where = read_checkpoint(source)
        config = found if config is None else config
    to_dict = getattr(config, "to_dict", None)
    options = to_dict() if callable(to_dict) else config if config is not None else {}
    if not isinstance(options, Mapping):
        raise UserError(f"config: expected the mapping in a config.json, not {type(options).__name__}")
    return fill_mamba(_named(arrays), options, where)


def fill_mamba(arrays: Arrays, options: Mapping[str, Any], source: str) -> MambaLM:
    """Build a model from arrays whose names start with "backbone", and the options of a config.json."""
    _check_kind(arrays, options, source)
    model_config = _config(arrays, options, source)
    arrays = dict(arrays)
    head = arrays.get(_HEAD)
    if model_config.tied and head is not None:
        if not np.array_equal(head, arrays[_EMBEDDING]):
            raise UserError(f"{source}: {_HEAD} differs from the embedding, but the config ties them")
        del arrays[_HEAD]
    check_shapes(arrays, _shapes(model_config), source)
    ours = {"embedding/embedding": arrays[_EMBEDDING], "norm_f/scale": arrays["backbone.norm_f.weight"]}
    if not model_config.tied:
        ours["lm_head/kernel"] = arrays[_HEAD].T
    for i in range(len(model_config.state_sizes)):
        ours[f"blocks/{i}/norm/scale"] = arrays[f"backbone.layers.{i}.norm.weight"]
        ours |= {f"blocks/{i}/ssm/{name}": array for name, array in _layer(arrays, i).items()}
    return fill_model(model_config, ours, source)


def state_dict_of(model: MambaLM) -> Arrays:
    """The arrays of a model by the names of Hugging Face, without the head if it is the embedding."""
    found: dict[str, Any] = {
        "backbone.embeddings.weight": model.embedding.embedding,
        "backbone.norm_f.weight": model.norm_f.scale,
    }
    result = {name: np.asarray(variable[...]) for name, variable in found.items()}
    if not model.config.tied:
        result[_HEAD] = np.asarray(model.lm_head.kernel[...]).T
    for i, block in enumerate(model.blocks):
        prefix = f"backbone.layers.{i}."
        result[f"{prefix}norm.weight"] = np.asarray(block.norm.scale[...])
        layer = {theirs: getattr(block.ssm, ours, None) for ours, theirs in _LAYER.items()}
        result |= {f"{prefix}mixer.{name}": np.asarray(v[...]) for name, v in layer.items() if v is not None}
        result[f"{prefix}mixer.x_proj.weight"] = np.asarray(block.ssm.x_proj)
        result[f"{prefix}mixer.conv1d.weight"] = np.asarray(block.ssm.conv_weight[...])[:, None]
    return {name: np.ascontiguousarray(array) for name, array in result.items()}


def _named(arrays: Arrays) -> Arrays:
    """The arrays as float32, by the names of state-spaces/mamba, also of a model that was saved without its head."""
    arrays = {name.replace("/", "."): array for name, array in arrays.items()}
    if not any(name.startswith("backbone.") for name in arrays):
        arrays = {name if name == _HEAD else f"backbone.{name}": array for name, array in arrays.items()}
    arrays = {name.replace("backbone.embeddings.", "backbone.embedding."): a for name, a in arrays.items()}
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _check_kind(arrays: Arrays, options: Mapping[str, Any], source: str) -> None:
    """Raise UserError unless this is Mamba, not one of its successors."""
    architecture = options.get("model_type", "mamba")
    layer = _ssm_options(options, source).get("layer", "Mamba1")
    flat = [name for name, array in arrays.items() if name.endswith("A_log") and array.ndim == 1]
    if architecture != "mamba" or layer != "Mamba1" or flat:
        said = architecture if architecture != "mamba" else layer
        sign = f"{flat[0]} has one dimension" if flat else f"its config says {said!r:.100}"
        raise UserError(f"{source} is not a Mamba model: {sign}. {_OTHERS}")
    wrong = [name for name, values in _FIXED.items() if name in options and options[name] not in values]
    if wrong:
        given = ", ".join(f"{name}={options[name]!r:.50}" for name in wrong)
        raise UserError(f"{source}: {given} is not supported; expected {', '.join(map(_words, wrong))}")


def _words(name: str) -> str:
    return f"{name}={_FIXED[name][0]!r}"


def _ssm_options(options: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """The options of the layers in a config of state-spaces/mamba, which are in a mapping of their own."""
    own = options.get("ssm_cfg") or {}
    if not isinstance(own, Mapping):
        raise UserError(f"{source}: ssm_cfg={own!r:.100}: expected a mapping")
    return own


def _config(arrays: Arrays, options: Mapping[str, Any], source: str) -> MambaLMConfig:
    """Read sizes from the arrays and compare them with the options; other options are taken from there."""
    first = "backbone.layers.0.mixer."
    V, H = shape_of(arrays, _EMBEDDING, "V, H")
    D, R = shape_of(arrays, f"{first}dt_proj.weight", "D, R")
    layers = range(count_layers(arrays, r"backbone\.layers\.([0-9]{1,6})\."))
    sizes = tuple(shape_of(arrays, f"backbone.layers.{i}.mixer.A_log", "D, N")[1] for i in layers)
    if D % H:
        raise UserError(f"{source}: {D} channels in a model of {H} features: expected a multiple")
    ssm: dict[str, Any] = {
        "expand": D // H,
        "d_conv": shape_of(arrays, f"{first}conv1d.weight", "D, 1, K")[2],
        "dt_rank": 0 if math.ceil(H / 16) == R else R,
        "use_bias": f"{first}in_proj.bias" in arrays,
        "conv_bias": f"{first}conv1d.bias" in arrays,
    }
    shown = {
        **{"hidden_size": H, "num_hidden_layers": len(sizes), "conv_kernel": ssm["d_conv"], "expand": ssm["expand"]},
        **{"state_size": sizes[0] if len(set(sizes)) == 1 else sizes, "time_step_rank": R},
        **{"use_bias": ssm["use_bias"], "use_conv_bias": ssm["conv_bias"]},
    }
    _compare(shown, options, source)
    tied = options.get("tie_word_embeddings", options.get("tie_embeddings"))
    if tied is None:
        tied = _HEAD not in arrays or np.array_equal(arrays[_HEAD], arrays[_EMBEDDING])
    epsilon = options.get("layer_norm_epsilon", options.get("norm_epsilon", 1e-5))
    return MambaLMConfig(V, H, sizes, S6Config(**ssm), tied=tied, norm_epsilon=epsilon)


def _compare(shown: Mapping[str, Any], options: Mapping[str, Any], source: str) -> None:
    """Raise UserError if a config says something else than the arrays show."""
    ssm = _ssm_options(options, source)
    said = {name: options.get(name, options.get(other, ssm.get(other))) for name, other in _SHOWN.items()}
    said = {name: value for name, value in said.items() if value not in (None, "auto")}
    if words := differences({name: shown[name] for name in said}, said):
        raise UserError(f"{source}: the arrays do not fit the config: {words}")


def _shapes(config: MambaLMConfig) -> Shapes:
    """The shapes of all arrays of a model, by their names in state-spaces/mamba."""
    H, ssm = config.d_model, config.ssm
    D, R = ssm.expand * H, ssm.rank(H)
    shapes: Shapes = {_EMBEDDING: (config.vocabulary, H), "backbone.norm_f.weight": (H,)}
    if not config.tied:
        shapes[_HEAD] = (config.vocabulary, H)
    for i, N in enumerate(config.state_sizes):
        layer: Shapes = {
            **{"in_proj.weight": (2 * D, H), "conv1d.weight": (D, 1, ssm.d_conv), "x_proj.weight": (R + 2 * N, D)},
            **{"dt_proj.weight": (D, R), "dt_proj.bias": (D,), "A_log": (D, N), "D": (D,), "out_proj.weight": (H, D)},
            **({"conv1d.bias": (D,)} if ssm.conv_bias else {}),
            **({"in_proj.bias": (2 * D,), "out_proj.bias": (H,)} if ssm.use_bias else {}),
        }
        shapes[f"backbone.layers.{i}.norm.weight"] = (H,)
        shapes |= {f"backbone.layers.{i}.mixer.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer(arrays: Arrays, i: int) -> Arrays:
    """The checked arrays of a layer, by our names."""
    prefix = f"backbone.layers.{i}.mixer."
    own: dict[str, Any] = {
        ours: arrays[prefix + theirs] for ours, theirs in _LAYER.items() if prefix + theirs in arrays
    }
    own |= split_x_proj(arrays[f"{prefix}x_proj.weight"], own["dt_proj"].shape[1])
    return own | {"conv_weight": arrays[f"{prefix}conv1d.weight"][:, 0]}
