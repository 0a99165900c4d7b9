"""Run an experiment.

    python run.py --config=NAME[:variant,variant] [--config.key=value …] [--workdir=FOLDER] [--data_dir=FOLDER]

After installation, the command `aire` does the same from any folder.

NAME is a file in configs/. Results go to --workdir (default: the run's name under $AIRE_WORKDIR or ./runs), prepared
datasets to --data_dir (default: $AIRE_DATA_DIR or ./data).

On several machines, start the same command on each: SLURM's `srun` and TPU pods say which process is which. Elsewhere,
add --config.distributed="('HOST:PORT', N, I)" with an address of process 0, the number of processes, and the index.
"""

import os
import signal
import sys

_IS_COMMAND = __name__ == "__main__" or os.path.basename(sys.argv[0]) == "aire"  # the installed command imports this


def _end(number: int, _) -> None:
    """End the process at once, without a traceback."""
    os.write(2, f"stopped by {signal.Signals(number).name} before the run started\n".encode())
    os._exit(128 + number)


if _IS_COMMAND:  # first, because the imports below take seconds; `main` installs the handlers of the run
    for _name in ("SIGTERM", "SIGHUP", "SIGINT"):
        if signal.getsignal(_number := getattr(signal, _name, signal.SIGINT)) is not signal.SIG_IGN:
            signal.signal(_number, _end)

if _IS_COMMAND and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    # XLA allocates a step's temporary memory anew each time, which costs less in huge pages (section "pages" of
    # --config=speed measures it). Restart, because glibc reads this variable only when a process starts.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, sys.orig_argv)

import contextlib
import difflib
import importlib
import io
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from aire.utils import processes, stopping
from aire.utils.checks import check, file_name
from aire.utils.errors import UserError
from aire.utils.files import occupied

_CONFIGS = Path(__file__).parent / "configs"


def config_names() -> list[str]:
    """Return the names that --config accepts."""
    return sorted(path.stem for path in _CONFIGS.glob("*.py") if path.stem not in ("common", "__init__"))


def load_config(argv: list[str]) -> tuple[ConfigDict, list[str]]:
    """Return the config that --config=NAME[:variants] names, and the other arguments.

    Raises:
        UserError: not exactly one config is given, a name or variant is unknown, or an override's key does not exist.
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
            names = list(node) if isinstance(node, ConfigDict) else []
            moved = [k for k in _keys(config) if k.split(".")[-1] == key.split(".")[-1]]  # right name, wrong place
            hint = f" (did you mean {moved[0]!r}?)" if moved else _hint(part, names)
            raise UserError(f"the config has no {key!r}{hint}; at {part!r} there are: {', '.join(names)}")
        node = node[part]


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{name}.")


def _hint(wrong: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def run(argv: list[str]) -> None:
    """Parse the command line and run the experiment that the config names."""
    config, rest = load_config(argv)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints and results.", flag_values=values)
    flags.DEFINE_string("data_dir", None, "Folder of prepared datasets.", flag_values=values)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
    fixed = config.experiment
    positional = values(rest)[1:]
    if positional:
        raise UserError(f"unexpected arguments {positional}: overrides look like --config.train.epochs=10")
    if config.experiment != fixed:
        raise UserError(f"experiment={config.experiment!r}: this config's is {fixed!r}, which cannot be changed")
    check(config, name=file_name())
    workdir = Path(values.workdir or Path(os.environ.get("AIRE_WORKDIR", "runs")) / config.name)
    data_dir = Path(values.data_dir or os.environ.get("AIRE_DATA_DIR", "data"))
    if "distributed" in config:
        processes.start(config.distributed)
    keep_compiled(workdir)
    experiment = importlib.import_module(f"experiments.{config.experiment}")
    with occupied(workdir) if processes.is_first() else silent():
        experiment.run(config, workdir, data_dir)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drop what a process prints that others print, too."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def keep_compiled(workdir: Path) -> None:
    """Cache compiled programs in the work folder, so a resumed run does not compile again.

    A cache folder that the user has set is left alone.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an exception that nothing has caught, as `sys.excepthook` does.

    Not those of writes that end after Orbax has given up, on a full disk: TensorStore shows one for each array.
    """
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def main() -> None:
    if "--help" in sys.argv or "-h" in sys.argv:
        print(f"{__doc__}\nConfigs: {', '.join(config_names())}")
        return
    sys.excepthook = _show
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "→" is no reason to stop
    with stopping.on_signals():
        try:
            run(sys.argv)
            processes.end()
        except (UserError, flags.Error) as error:
            processes.fail(f"error: {error}")
            sys.exit(f"error: {error}")
        except OSError as error:  # such as of standard output, whose disk is full or whose reader has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to print
            sys.exit(f"error: {error}; run the same command again to go on")
        except stopping.Stopped as stop:
            report(stop)
            processes.end()
            sys.exit(stop.exit_code)
        except Exception as error:
            processes.fail(error)
            raise


def report(stop: stopping.Stopped) -> None:
    """Say why the run stops and how to go on."""
    if processes.is_first():
        notes = getattr(stop, "__notes__", ["run the same command again"])
        print("; ".join([str(stop), *notes]), file=sys.stderr, flush=True)
        if stop.exit_code == 0:
            print(f"to go on: {shlex.join([Path(sys.executable).name, *sys.argv])}", flush=True)


if __name__ == "__main__":
    main()
