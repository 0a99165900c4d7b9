"""Run an experiment.

    python run.py --config=NAME[:variant,variant] [--config.key=value …] [--workdir=FOLDER] [--data_dir=FOLDER]

Installed, the command `aire` does the same from any folder.

NAME is a file in configs/. Results go to --workdir (default: the run's name under $AIRE_WORKDIR or ./runs), prepared
datasets to --data_dir (default: $AIRE_DATA_DIR or ./data).
"""

import os
import sys

if (
    (__name__ == "__main__" or os.path.basename(sys.argv[0]) == "aire")  # the installed command imports this file
    and sys.platform == "linux"
    and "GLIBC_TUNABLES" not in os.environ
):
    # XLA takes a step's temporary memory anew each time, which costs a fraction in huge pages (section "pages" of
    # --config=speed measures it). Glibc reads this once, when a process starts, so it starts again.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, sys.orig_argv)

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from aire.utils.errors import UserError

_CONFIGS = Path(__file__).parent / "configs"

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints and results.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared datasets.")


def config_names() -> list[str]:
    """The configs there are."""
    return sorted(path.stem for path in _CONFIGS.glob("*.py") if path.stem not in ("common", "__init__"))


def load_config(argv: list[str]) -> tuple[ConfigDict, list[str]]:
    """The config that --config=NAME[:variants] names, and the rest of the command line.

    Raises:
        UserError: no or several configs, an unknown name or variant, or an override of a key that is not there.
    """
    given = [a for a in argv if a.startswith(("--config=", "-config="))]
    if len(given) != 1:
        raise UserError(f"give one --config=NAME; there are: {', '.join(config_names())}")
    name, _, variants = given[0].split("=", 1)[1].partition(":")
    if name not in config_names():
        raise UserError(f"unknown config {name!r}{_hint(name, config_names())}; there are: {', '.join(config_names())}")
    config = importlib.import_module(f"configs.{name}").get_config(variants)
    rest = [a for a in argv if a != given[0]]
    for override in rest:
        if override.startswith(("--config.", "-config.")):
            _check_key(config, override.partition("=")[0].split("config.", 1)[1])
    return config, rest


def _check_key(config: ConfigDict, key: str) -> None:
    node = config
    for part in key.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            known = list(node) if isinstance(node, ConfigDict) else []
            raise UserError(f"the config has no {key!r}{_hint(part, known)}; at {part!r} there are: {', '.join(known)}")
        node = node[part]


def _hint(wrong: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def run(argv: list[str]) -> None:
    """Parse the command line and run the experiment that the config names."""
    config, rest = load_config(argv)
    config_flags.DEFINE_config_dict("config", config, sys_argv=rest)
    positional = flags.FLAGS(rest)[1:]
    if positional:
        raise UserError(f"unexpected arguments {positional}: overrides look like --config.train.epochs=10")
    workdir = Path(_WORKDIR.value or Path(os.environ.get("AIRE_WORKDIR", "runs")) / config.name)
    data_dir = Path(_DATA_DIR.value or os.environ.get("AIRE_DATA_DIR", "data"))
    keep_compiled(workdir)
    importlib.import_module(f"experiments.{config.experiment}").run(config, workdir, data_dir)


def keep_compiled(workdir: Path) -> None:
    """Keep compiled programs in the work folder, unless the user has set another place for them.

    What was compiled once need not be when the same command goes on.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def main() -> None:
    if "--help" in sys.argv or "-h" in sys.argv:
        print(f"{__doc__}\nConfigs: {', '.join(config_names())}")
        return
    try:
        run(sys.argv)
    except (UserError, flags.Error) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    main()
