"""Deep state space models and their parts."""

from aire.models.activations import ACTIVATIONS
from aire.models.block import Block
from aire.models.classifier import Classifier, pool, stack_documents
from aire.models.config import ModelConfig
from aire.models.language import MambaLM, MambaLMConfig, next_token_loss

__all__ = [
    "ACTIVATIONS",
    "Block",
    "Classifier",
    "MambaLM",
    "MambaLMConfig",
    "ModelConfig",
    "next_token_loss",
    "pool",
    "stack_documents",
]
