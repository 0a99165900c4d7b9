"""Run an experiment: `python run.py --config=NAME[:variants] [--config.key=value …] [--workdir=…] [--data_dir=…]`."""

import difflib
import importlib
import os
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from aire.errors import UserError

_CONFIGS = Path(__file__).parent / "configs"
_NOT_EXPERIMENTS = {"common", "__init__"}

_CONFIG = config_flags.DEFINE_config_file("config", help_string="NAME or NAME:variant,variant of a file in configs/.")
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of this run: checkpoints, results. Default: $AIRE_WORKDIR or runs, and the run's name in it.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared datasets. Default: $AIRE_DATA_DIR or data.")


def config_names() -> list[str]:
    return sorted(path.stem for path in _CONFIGS.glob("*.py") if path.stem not in _NOT_EXPERIMENTS)


def resolve_config(argv: list[str]) -> list[str]:
    """The command line with the config's bare name as a path, and before its overrides, as ml_collections wants it.

    Raises:
        UserError: no config, or a name that no file in configs/ has.
    """
    given = [a for a in argv if a.startswith(("--config=", "-config="))]
    if len(given) != 1:
        raise UserError(f"give one --config=NAME; there are: {', '.join(config_names())}")
    name, colon, variants = given[0].split("=", 1)[1].partition(":")
    if name not in config_names():
        near = difflib.get_close_matches(name, config_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown config {name!r}: {hint}there are: {', '.join(config_names())}")
    rest = [a for a in argv[1:] if a != given[0]]
    return [argv[0], f"--config={_CONFIGS / name}.py{colon}{variants}", *rest]


def run(argv: list[str]) -> None:
    config: ConfigDict = _CONFIG.value
    if argv[1:]:
        raise UserError(f"unexpected arguments {argv[1:]}: overrides look like --config.train.epochs=10")
    workdir = Path(_WORKDIR.value or Path(os.environ.get("AIRE_WORKDIR", "runs")) / config.name)
    data_dir = Path(_DATA_DIR.value or os.environ.get("AIRE_DATA_DIR", "data"))
    # Imported only now: JAX takes seconds, and a wrong flag should not have to wait for it.
    importlib.import_module(f"experiments.{config.experiment}").run(config, workdir, data_dir)


def main() -> None:
    try:
        argv = resolve_config(sys.argv)
        flags.FLAGS(argv)
        app.run(run, argv=argv)
    except (UserError, flags.Error) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
