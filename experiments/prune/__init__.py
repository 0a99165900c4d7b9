"""The pruning job."""

from experiments.prune.prune_job import run

__all__ = ["run"]
