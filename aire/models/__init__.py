"""Deep state space models and their parts."""

from aire.models.activations import ACTIVATIONS
from aire.models.block import Block
from aire.models.classifier import Classifier, pool, stack_documents
from aire.models.config import ModelConfig

__all__ = ["ACTIVATIONS", "Block", "Classifier", "ModelConfig", "pool", "stack_documents"]
