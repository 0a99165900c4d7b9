"""Export a Mamba language model to the layout that transformers loads."""

import json
import os

import safetensors.numpy

from aire.convert.from_mamba import state_dict_of
from aire.models import MambaLM
from aire.utils.arguments import instance
from aire.utils.arguments import path as checked_path
from aire.utils.errors import UserError
from aire.utils.files import write_bytes, write_text, writing


def to_hugging_face(model: MambaLM, folder: str | os.PathLike) -> None:
    """Write `model.safetensors` and `config.json`, which `MambaForCausalLM.from_pretrained(folder)` loads.

    Hugging Face has one number of states for all layers. Cut with scope="uniform" to keep as many in each.

    Args:
        model: the model, pruned or not.
        folder: where to write; made if it does not exist.
    Raises:
        UserError: the model is no MambaLM, its layers have different numbers of states or none, or the folder cannot
            be written.
    """
    instance("model", model, MambaLM, "an aire.MambaLM")
    place, config = checked_path("folder", folder), model.config
    if len(set(config.state_sizes)) > 1 or not config.state_sizes[0]:
        raise UserError(
            f"layers of {list(config.state_sizes)} states: Hugging Face has one number for all layers, at least 1; cut "
            "with scope='uniform'"
        )
    ssm, H = config.ssm, config.d_model
    options = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "vocab_size": config.vocabulary,
        "hidden_size": H,
        "state_size": config.state_sizes[0],
        "num_hidden_layers": len(config.state_sizes),
        "layer_norm_epsilon": config.norm_epsilon,
        "expand": ssm.expand,
        "intermediate_size": ssm.expand * H,
        "conv_kernel": ssm.d_conv,
        "time_step_rank": ssm.rank(H),
        "use_bias": ssm.use_bias,
        "use_conv_bias": ssm.conv_bias,
        "hidden_act": "silu",
        "residual_in_fp32": True,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    }
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    write_bytes(place / "model.safetensors", safetensors.numpy.save(state_dict_of(model), {"format": "pt"}))
    write_text(place / "config.json", json.dumps(options, indent=1) + "\n")
