"""The benchmark."""

from experiments.speed.speed_job import run

__all__ = ["run"]
