"""Training checkpoints: Orbax writes the arrays; checksums and one atomic rename decide which of them are good.

A folder of checkpoints holds

    fingerprint.json    the settings that its checkpoints belong to
    1200/               a checkpoint:
        arrays/             Orbax's files, each array under its path in the state tree
        meta.json           score, what the training loop wants to remember, shape and dtype of every array
        manifest.json       the SHA-256 of every other file, for Orbax does not notice a flipped bit
    damaged-900/        a checkpoint that no longer agrees with its manifest, kept for a look
    unfinished/         what is being written or deleted at the moment

A checkpoint is written in `unfinished/`, its manifest last, and then renamed into place. So a kill at any moment leaves
good checkpoints and rubbish in `unfinished/`, and a checkpoint without a valid manifest was damaged later.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from aire.utils.errors import UserError
from aire.utils.files import sync, write_text, writing

PyTree = Any
Scores = dict[int, float | None]  # step -> score
MANIFEST = "manifest.json"
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training run, for one process. A context manager: leaving it waits for the last save.

    Kept are the `keep` newest and the one with the highest score (of equals the earliest).

    Args:
        folder: made if it does not exist.
        fingerprint: the settings of the run, as a dict that JSON can hold; stored when the folder is new.

    Raises:
        UserError: the folder cannot be written, or holds checkpoints of a run with other settings.
    """

    def __init__(self, folder: str | Path, *, fingerprint: dict[str, Any], keep: int = 2):
        if keep < 1:
            raise UserError(f"keep={keep} checkpoints is too few to go on from; give 1 or more")
        self.folder, self.keep = Path(folder).absolute(), keep
        self._unfinished = self.folder / "unfinished"
        self._pending: Future[None] | None = None
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._unfinished, ignore_errors=True)
        _check_fingerprint(self.folder, fingerprint)
        self._scores: Scores = {s: _read_meta(self.folder / str(s))["score"] for s in self._steps() if self._is_good(s)}
        # Folders made asynchronously would keep Orbax's threads waiting for minutes where one cannot be made.
        options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler(), async_options=options)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._filter = _NoOrbaxTracebacks()
        logging.getLogger("absl").addFilter(self._filter)

    def save(self, step: int, state: PyTree, meta: dict[str, Any], *, score: float | None = None) -> None:
        """Save in the background; on return `state` has been copied and may be donated or changed.

        Args:
            state: a tree of arrays, JAX's or NumPy's.
            meta: anything else to remember, as a dict that JSON can hold.
            score: a finite number, higher is better; None for "not measured".

        Raises:
            UserError: this checkpoint, or the one before it, cannot be written; the earlier ones are intact.
            ValueError: this step is saved already.
        """
        self.wait()
        if step in self._scores:
            raise ValueError(f"step {step} is saved already in {self.folder}; every step can be saved once")
        arrays, _ = _flatten(state)
        description = json.dumps({"score": score, "meta": meta, "arrays": _describe(arrays)}, indent=1)
        to_write = {name: x for name, x in arrays.items() if x.size}  # Orbax refuses to write empty arrays
        with self._writing():
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._orbax.save(self._unfinished / str(step) / "arrays", args=ocp.args.StandardSave(to_write))
        self._pending = self._worker.submit(self._commit, step, description, score)

    def restore_latest(self, target: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest good checkpoint as (step, state, meta), or None where nothing was ever saved.

        Args:
            target: a tree like the saved one, of arrays or `jax.ShapeDtypeStruct`. NumPy arrays come back as NumPy,
                others as JAX arrays, sharded as the target says (else on the default device).

        Raises:
            UserError: the checkpoint holds other arrays than `target`, or all checkpoints are damaged.
        """
        return self._restore(max, target)

    def restore_best(self, target: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """As `restore_latest`, but the good checkpoint with the highest score, or the newest where none has one."""
        return self._restore(lambda scores: max(scores) if (step := _best(scores)) is None else step, target)

    def latest(self) -> Path | None:
        """The folder of the newest checkpoint, after waiting for the last `save`; None where there is none."""
        self.wait()
        return self.folder / str(max(self._scores)) if self._scores else None

    def wait(self) -> None:
        """Wait until the last `save` is on the disk. Raises UserError where it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._writing():
                pending.result()

    def close(self) -> None:
        """Wait for the last `save`, then end the background threads."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            self._orbax.close()
            logging.getLogger("absl").removeFilter(self._filter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _commit(self, step: int, description: str, score: float | None) -> None:
        """In the background: once Orbax is done, add the manifest, put the checkpoint into place, delete old ones."""
        self._orbax.wait_until_finished()
        new = self._unfinished / str(step)
        write_text(new / "meta.json", description)
        for path in new.rglob("*"):
            sync(path)  # before the rename, for afterwards an older checkpoint may be deleted
        digests = {str(path.relative_to(new)): _sha256(path) for path in sorted(new.rglob("*")) if path.is_file()}
        write_text(new / MANIFEST, json.dumps(digests, indent=1))
        os.rename(new, self.folder / str(step))
        sync(self.folder)
        self._scores[step] = score
        self._delete_old()

    def _delete_old(self) -> None:
        kept = {*sorted(self._scores)[-self.keep :], _best(self._scores)}
        old = self._scores.keys() - kept
        self._scores = {step: score for step, score in self._scores.items() if step in kept}
        for step in old:
            # Renamed first: a kill while its files are being deleted must not leave it looking damaged.
            os.rename(self.folder / str(step), self._unfinished / str(step))
        shutil.rmtree(self._unfinished)

    def _restore(self, choose: Callable[[Scores], int], target: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        self.wait()
        while self._scores:
            step = choose(self._scores)
            if self._is_good(step):
                return step, *self._read(self.folder / str(step), target)
            del self._scores[step]
        if damaged := sorted(path.name for path in self.folder.glob("damaged-*")):
            raise UserError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(damaged)}); "
                "rename or remove this folder to start again, or choose another --workdir"
            )
        return None

    def _read(self, folder: Path, target: PyTree) -> tuple[PyTree, dict[str, Any]]:
        description = _read_meta(folder)
        wanted, treedef = _flatten(target)
        _check_fit(folder, description["arrays"], _describe(wanted))
        arrays = {name: _empty(x) for name, x in wanted.items() if not x.size}
        to_read = {name: _abstract(x) for name, x in wanted.items() if x.size}
        arrays |= self._orbax.restore(folder / "arrays", args=ocp.args.StandardRestore(to_read))
        return treedef.unflatten(arrays[name] for name in wanted), description["meta"]

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def _is_good(self, step: int) -> bool:
        """Whether a checkpoint agrees with its manifest; one that does not is named in a warning and set aside."""
        fault = _find_fault(self.folder / str(step))
        if fault is None:
            return True
        aside = _unused(self.folder / f"damaged-{step}")
        with writing(self.folder):
            os.rename(self.folder / str(step), aside)
        words = "checkpoint %d in %s is damaged: %s; it is now called %s and an earlier one is taken"
        log.warning(words, step, self.folder, fault, aside.name)
        return False

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """As `writing`, also for what the system told TensorStore, which raises it as a ValueError."""
        with writing(self.folder):
            try:
                yield
            except ValueError as error:
                if not (code := re.search(r"os_error_code='(\d+)'", str(error))):
                    raise
                raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _best(scores: Scores) -> int | None:
    scored = [(score, -step) for step, score in scores.items() if score is not None]
    return -max(scored)[1] if scored else None


def _flatten(tree: PyTree) -> tuple[dict[str, Any], jax.tree_util.PyTreeDef]:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}, treedef


def _describe(arrays: dict[str, Any]) -> dict[str, str]:
    """name -> e.g. "float32[64, 10]"."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}


def _sharding(x: jax.Array | jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
    return x.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _abstract(x: Any) -> Any:
    return x if isinstance(x, np.ndarray) else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(x))


def _empty(x: Any) -> Any:
    return np.empty_like(x) if isinstance(x, np.ndarray) else jnp.zeros(x.shape, x.dtype, device=_sharding(x))


def _read_meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, in words, or None."""
    name = MANIFEST
    try:
        digests = json.loads((folder / MANIFEST).read_bytes())
        for name, digest in digests.items():
            if _sha256(folder / name) != digest:
                return f"{name} is not what was written (its SHA-256 differs)"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    except (ValueError, AttributeError):
        return f"{MANIFEST} is not the JSON that was written"
    return None


def _unused(path: Path) -> Path:
    """`path`, or where that exists `path.2`, `path.3`, …"""
    name, n = path.name, 1
    while path.exists():
        n += 1
        path = path.with_name(f"{name}.{n}")
    return path


def _check_fit(folder: Path, stored: dict[str, str], wanted: dict[str, str]) -> None:
    if differences := _differences(stored, wanted):
        raise UserError(
            f"checkpoint {folder} does not fit the model: {differences}; "
            "choose another --workdir or restore the settings it was made with"
        )


def _check_fingerprint(folder: Path, given: dict[str, Any]) -> None:
    path = folder / "fingerprint.json"
    # Files do not count: a kill in this very moment leaves a temporary one.
    if not path.exists() and not any(entry.is_dir() for entry in folder.iterdir()):
        write_text(path, json.dumps(given, indent=1))
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no readable fingerprint.json, so what is in it cannot be trusted to fit these settings; "
            "choose another --workdir"
        ) from error
    # Through JSON, as the stored one went: a tuple becomes a list.
    if differences := _differences(_flat(stored), _flat(json.loads(json.dumps(given)))):
        raise UserError(
            f"the checkpoints in {folder} were made with other settings: {differences}; "
            "choose another --workdir or restore these settings"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"model": {"layers": 4}} -> {"model.layers": "4"}."""
    flat = {}
    for key, value in tree.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": json.dumps(value)}
    return flat


def _differences(stored: dict[str, str], given: dict[str, str], most: int = 8) -> str:
    """The keys whose values differ, with both values, in words; "" where all agree."""
    keys = [key for key in sorted(stored | given) if stored.get(key) != given.get(key)]
    words = [f"{key} is {stored.get(key, 'absent')} there, {given.get(key, 'absent')} here" for key in keys[:most]]
    return "; ".join(words + [f"and {len(keys) - most} more"] * (len(keys) > most))


class _NoOrbaxTracebacks(logging.Filter):
    """Orbax logs every error of its threads with a traceback, though it also raises it, and we report it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)
