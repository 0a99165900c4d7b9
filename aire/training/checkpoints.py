"""Training checkpoints: Orbax's CheckpointManager, with digests of the contents of each checkpoint.

Orbax writes in the background, and a checkpoint appears atomically when it is complete. A checkpoint is the folder of a
step with two items: `state`, the arrays, and `record`, a JSON text with the settings of the run, the score and the
SHA-256 of every array. The SHA-256 of the record is stored beside it. Restoring compares the digests, because Orbax
does not notice every flipped bit.

A damaged checkpoint that is newer than the newest intact one costs only time: the training goes on from the intact one
and makes it again. The best checkpoint cannot be made again from a later one, so without it the training would return
another model. That is the user's decision, and therefore an error.

The processes of a run share its checkpoints and all make the same calls. A checkpoint holds whole arrays, so any number
of processes and devices can go on from it.
"""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from orbax.checkpoint import args

from aire.training.checkpoint_record import parse, quality
from aire.utils import devices, digests
from aire.utils.errors import UserError, differences, in_one_line
from aire.utils.files import writing

PyTree = Any

# Settings that older checkpoints lack, at the values that do what was done before.
_SINCE = {"train.accumulate": 1, "train.fsdp": False, "train.max_minutes": 0.0, "model.remat": False}
Restored = tuple[int, PyTree, dict[str, Any]]  # step, state, meta
DELETED = "deleted"
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training run. Leaving the context waits for the last save.

    The `keep` newest checkpoints and the one with the highest score are kept (the earliest, if scores are equal).
    Damaged checkpoints are skipped, and the next save deletes them. Folders whose name is no step are ignored.

    Args:
        folder: created if it does not exist.
        fingerprint: the settings of the run, as a JSON-serialisable dict.
        keep: number of newest checkpoints to keep.

    Raises:
        UserError: the folder cannot be written, or holds checkpoints of a run with other settings.
    """

    def __init__(self, folder: str | Path, *, fingerprint: dict[str, Any], keep: int = 2):
        if keep < 1:
            raise UserError(f"keep={keep} checkpoints: expected at least 1")
        self.folder, self.keep = Path(folder).absolute(), keep
        self._settings = json.loads(json.dumps(fingerprint))  # as JSON returns it: a tuple becomes a list
        if (self.folder / "fingerprint.json").exists():
            raise UserError(f"{self.folder} holds checkpoints of an older version of aire; choose another --workdir")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            cleanup_tmp_directories=True,
            todelete_subdir=DELETED,  # rename before deleting, because a kill must not leave half a checkpoint
            save_root_metadata=False,
            # Otherwise Orbax's threads wait for minutes for a folder that cannot be created.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        )
        with writing(self.folder):
            if self.folder.exists() and not self.folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        # Orbax logs errors of its threads with a traceback. It also raises them, so they are reported without it.
        self._filter = lambda record: not (record.exc_info and "orbax" in record.pathname)
        logging.getLogger("absl").addFilter(self._filter)
        self._records: dict[int, dict[str, Any]] = {}  # of the intact checkpoints, by step
        self._damaged: dict[int, str] = {}  # step -> fault
        self.wait()
        for step in self._manager.all_steps():
            try:
                self._records[step] = self._read_record(step)
            except Exception as error:  # Orbax raises many exception types for damaged files
                self._damaged[step] = in_one_line(error)
        for step, record in self._records.items():
            if words := differences(*(_SINCE | flatten_dict(s, sep=".") for s in (record["settings"], self._settings))):
                self.close()
                raise UserError(
                    f"checkpoint {self.folder / str(step)} was made with other settings: {words}; "
                    "choose another --workdir or restore these settings"
                )

    def save(self, step: int, state: PyTree, meta: dict[str, Any], *, score: float | None = None) -> None:
        """Save in the background. `state` is copied before this returns, so it may be donated or changed.

        Args:
            state: a tree of JAX or NumPy arrays.
            meta: further data, as a JSON-serialisable dict.
            score: a finite number, higher is better; None if not measured. A later save of the same step, with a score,
                replaces such a checkpoint.

        Raises:
            UserError: this checkpoint or the previous one cannot be written; the earlier ones are intact.
            ValueError: this step is already saved with a score, or none is given.
        """
        self.wait()
        replaced = [step] if step in self._records and self._records[step]["score"] is None is not score else []
        if step in self._records and not replaced:
            raise ValueError(f"step {step} is already saved in {self.folder}; every step can be saved once")
        arrays = {name: devices.on_host(x) for name, x in _flatten(state)[0].items()}
        record = {"step": step, "settings": self._settings, "meta": meta, "score": score, "arrays": _describe(arrays)}
        record["sha256"] = {name: digests.of_array(x) for name, x in arrays.items()}
        records = self._records | {step: record}
        record["best"] = max(records, key=lambda s: quality(s, records[s]))
        text = json.dumps(record)
        items = args.Composite(
            state=args.StandardSave({name: x for name, x in arrays.items() if x.size}),  # Orbax refuses empty ones
            record=args.JsonSave({"text": text, "sha256": digests.of_text(text)}),
        )
        with self._writing():
            for old in [*self._damaged, *replaced]:
                self._manager.delete(old)
                self._damaged.pop(old, None)
            self._records[step] = record
            self._manager.save(step, args=items, force=True)

    def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
        """Which of these checkpoints to keep (the interface of Orbax's preservation policies)."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {
            *sorted(steps)[-self.keep :],
            max(steps, key=lambda step: quality(step, self._records[step])),
        }
        return [step in kept for step in steps]

    def restore_latest(self, target: PyTree) -> Restored | None:
        """Restore the newest intact checkpoint as (step, state, meta), or None if nothing was ever saved.

        Args:
            target: a tree like the saved one, of arrays or `jax.ShapeDtypeStruct`. NumPy arrays are restored as NumPy
                arrays, others as JAX arrays with the sharding of the target (by default on the default device).

        Raises:
            UserError: the checkpoint has other arrays than `target`, all checkpoints are damaged, or the best up to the
                newest intact one is.
        """
        self.wait()
        wanted, treedef = _flatten(target)
        for step in sorted(self._records, reverse=True):
            if (arrays := self._intact(step, wanted)) is None:
                continue
            if (best := self._best(step)) != step:
                self._read_best(best, wanted)
            for damaged, fault in self._damaged.items():
                words = "checkpoint %d in %s is damaged (%s); the newest intact one is used: checkpoint %d"
                log.warning(words, damaged, self.folder, fault, step)
            return self._restored(step, arrays, wanted, treedef)
        if self._damaged:
            faults = "; ".join(f"{step}: {fault}" for step, fault in sorted(self._damaged.items()))
            raise UserError(
                f"every checkpoint in {self.folder} is damaged ({faults}); "
                "rename or remove this folder to start again, or choose another --workdir"
            )
        return None

    def restore_best(self, target: PyTree) -> Restored | None:
        """As `restore_latest`, for the checkpoint with the highest score, or the newest if none has a score.

        Raises:
            UserError: it or the newest checkpoint is damaged, or it has other arrays than `target`.
        """
        self.wait()
        if not self._records and not self._damaged:
            return None
        newest = max([*self._records, *self._damaged])
        if newest in self._damaged:
            raise UserError(
                f"checkpoint {newest} in {self.folder} is damaged ({self._damaged[newest]}); "
                "run the same command again to go on from an earlier one"
            )
        wanted, treedef = _flatten(target)
        best = self._best(newest)
        return self._restored(best, self._read_best(best, wanted), wanted, treedef)

    def __contains__(self, step: int) -> bool:
        return step in self._records

    def latest(self) -> Path | None:
        """Wait for the last `save` and return the folder of the newest checkpoint, or None."""
        self.wait()
        return self.folder / str(max(self._records)) if self._records else None

    def wait(self) -> None:
        """Wait until the last `save` is on disk. Raise UserError if it could not be written."""
        with self._writing():
            self._manager.wait_until_finished()
        self._forget_deleted()
        if devices.is_first():
            shutil.rmtree(self.folder / DELETED, ignore_errors=True)

    def close(self) -> None:
        """Wait for the last `save`, then stop the background threads. Raise UserError if it could not be written."""
        try:
            self.wait()
            with writing(self.folder):
                self._manager.close()
        except Exception:
            with suppress(Exception):  # raises the threads' error again
                self._manager.close()
            raise
        finally:
            logging.getLogger("absl").removeFilter(self._filter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        with suppress(UserError) if kind else nullcontext():  # the error that ended the block says more
            self.close()

    def _intact(self, step: int, wanted: dict[str, Any]) -> dict[str, np.ndarray] | None:
        """Read the arrays of a checkpoint; None if they are damaged. Raise UserError if they do not fit."""
        if words := differences(self._records[step]["arrays"], _describe(wanted)):
            raise UserError(
                f"checkpoint {self.folder / str(step)} does not fit the model: {words}; "
                "choose another --workdir or restore the settings it was made with"
            )
        try:
            return self._read_arrays(step, wanted)
        except Exception as error:  # many types; arrays are NumPy's here, so it is no device error
            self._damaged[step] = in_one_line(error)
            del self._records[step]
            return None

    def _best(self, newest: int) -> int:
        """The best step up to `newest`, which is intact, as its record says.

        If the user has removed that checkpoint, or an older version wrote the record, it is the best of the others.
        """
        best = self._records[newest].get("best")
        if best in self._records or best in self._damaged:
            return best
        return max((s for s in self._records if s <= newest), key=lambda s: quality(s, self._records[s]))

    def _read_best(self, best: int, wanted: dict[str, Any]) -> dict[str, np.ndarray]:
        """Read the arrays of the best checkpoint. Raise UserError if it is damaged."""
        arrays = self._intact(best, wanted) if best in self._records else None
        if arrays is None:
            raise UserError(
                f"checkpoint {best} in {self.folder}, the best so far, is damaged ({self._damaged[best]}); without it "
                f"the training would return another model: remove the folder {self.folder / str(best)} to go on "
                "without it, or choose another --workdir to train again"
            )
        return arrays

    def _restored(self, step: int, arrays: dict, wanted: dict[str, Any], treedef: Any) -> Restored:
        return step, treedef.unflatten(map(_place, arrays.values(), wanted.values())), self._records[step]["meta"]

    def _read_record(self, step: int) -> dict[str, Any]:
        return parse(self._manager.restore(step, args=args.Composite(record=args.JsonRestore()))["record"], step)

    def _read_arrays(self, step: int, wanted: dict[str, Any]) -> dict[str, np.ndarray]:
        """Read arrays with these names, shapes and dtypes, and compare them with their digests."""
        arrays = {name: np.empty(x.shape, x.dtype) for name, x in wanted.items()}
        to_read = args.StandardRestore({name: x for name, x in arrays.items() if x.size})
        arrays |= self._manager.restore(step, args=args.Composite(state=to_read))["state"]
        if changed := digests.changed(arrays, self._records[step]["sha256"]):
            raise ValueError(f"different from what was written: {', '.join(changed)}")
        return arrays

    def _forget_deleted(self) -> None:
        self._records = {step: self._records[step] for step in self._manager.all_steps() if step in self._records}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """As `writing`, also for the system errors that TensorStore raises as ValueError."""
        try:
            with writing(self.folder):
                try:
                    yield
                except ValueError as error:
                    if not (code := re.search(r"os_error_code='(\d+)'", str(error))):
                        raise
                    raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        except Exception:
            self._manager.reload()  # a failed save makes it forget its pending deletions
            self._forget_deleted()
            raise


def _flatten(tree: PyTree) -> tuple[dict[str, Any], jax.tree_util.PyTreeDef]:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}, treedef


def _describe(arrays: dict[str, Any]) -> dict[str, str]:
    """name -> e.g. "float32[64, 10]"."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}


def _place(array: np.ndarray, like: Any) -> np.ndarray | jax.Array:
    if isinstance(like, np.ndarray):
        return array
    sharding = like.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))
