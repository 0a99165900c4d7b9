"""The kinds of model that files hold: the config and the class of each."""

from collections.abc import Mapping
from typing import Any

from aire.models.classifier import Classifier
from aire.models.config import ModelConfig
from aire.models.language import MambaLM, MambaLMConfig
from aire.utils.errors import UserError

Model = Classifier | MambaLM
Config = ModelConfig | MambaLMConfig


def config_from(fields: object) -> Config:
    """Invert `dataclasses.asdict` of a config, also after a round trip through JSON.

    Raises:
        UserError: an unknown kind or an invalid option.
    """
    if not isinstance(fields, Mapping) or "kind" not in fields:  # a classifier's config names no kind
        return ModelConfig.from_dict(fields)
    if fields["kind"] != MambaLMConfig.kind:
        raise UserError(
            f"kind={str(fields['kind'])[:100]!r}: expected {MambaLMConfig.kind!r}, or none for a classifier"
        )
    return MambaLMConfig.from_dict(fields)


def model_of(config: Config, *, rngs: Any) -> Model:
    """Make a new model of a config; `rngs` as for the classes."""
    return MambaLM(config, rngs=rngs) if isinstance(config, MambaLMConfig) else Classifier(config, rngs=rngs)
