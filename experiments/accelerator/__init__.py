"""The first hour on a new accelerator."""

from experiments.accelerator.accelerator_job import run

__all__ = ["run"]
