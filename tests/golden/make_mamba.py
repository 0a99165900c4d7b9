"""Write mamba_models.npz: what MambaForCausalLM of transformers computes, with random weights, in a few kilobytes.

pip install torch transformers
python tests/golden/make_mamba.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import MambaConfig, MambaForCausalLM

SMALL = {"vocab_size": 9, "hidden_size": 4, "state_size": 3, "num_hidden_layers": 2}
CASES = {
    "plain": SMALL,
    "other": {
        **{"vocab_size": 5, "hidden_size": 18, "state_size": 2, "num_hidden_layers": 1, "layer_norm_epsilon": 1e-2},
        **{"expand": 1, "conv_kernel": 3, "time_step_rank": 3, "use_bias": True, "use_conv_bias": False},
        "tie_word_embeddings": False,
    },
}


def make(seed: int, **options) -> MambaForCausalLM:
    """A model on the CPU in float32, all of whose parameters have noise, so that none is zero or one."""
    torch.manual_seed(seed)
    model = MambaForCausalLM(MambaConfig(use_cache=True, eos_token_id=None, pad_token_id=None, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def run(model: MambaForCausalLM, tokens: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of tokens (B, L), and the n tokens that greedy generation adds."""
    x = torch.as_tensor(tokens)
    with torch.no_grad():
        logits = model(x).logits.numpy()
        generated = model.generate(x, max_new_tokens=n, min_new_tokens=n, do_sample=False)
    return logits, generated[:, tokens.shape[1] :].numpy()


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for seed, (case, options) in enumerate(CASES.items()):
        model = make(seed, **options)
        tokens = np.random.default_rng(seed).integers(0, options["vocab_size"], (2, 6))
        logits, generated = run(model, tokens, 8)
        arrays |= {f"{case}/config": np.array(json.dumps(options)), f"{case}/tokens": tokens.astype(np.int32)}
        arrays |= {f"{case}/logits": logits, f"{case}/generated": generated.astype(np.int32)}
        state_dict = model.state_dict()
        if "tie_word_embeddings" not in options:
            del state_dict["lm_head.weight"]
        arrays |= {f"{case}/state_dict/{name}": tensor.numpy() for name, tensor in state_dict.items()}
    np.savez_compressed(Path(__file__).parent / "mamba_models.npz", **arrays)


if __name__ == "__main__":
    main()
