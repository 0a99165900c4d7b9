"""The language-model job."""

from experiments.lm.lm_job import run

__all__ = ["run"]
