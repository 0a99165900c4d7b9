"""The papers' tables."""

from experiments.paper_table.table_job import run

__all__ = ["run"]
