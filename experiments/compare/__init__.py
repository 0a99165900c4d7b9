"""The comparison of methods."""

from experiments.compare.compare_job import run

__all__ = ["run"]
