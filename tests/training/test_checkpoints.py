"""Checkpoints are restored bit for bit, or an error says why not. Damage and kills lose no earlier checkpoint."""

import errno
import functools
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aire.training import checkpoints
from aire.training.checkpoints import Checkpoints
from aire.utils import digests
from aire.utils.errors import UserError

SETTINGS = {"model": {"layers": 4, "sizes": (8, 8)}, "lr": 1e-3}


def make_state(step: int) -> dict:
    """A small training state with every kind of array. Its values depend on the step."""
    params = {"layer_0": {"B": jnp.full((3, 4), step, jnp.float32)}, "layer_1": {"B": jnp.zeros((0, 4), jnp.float32)}}
    return {
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "key": jax.random.key_data(jax.random.key(step)),
        "spectrum": jnp.array([1 + 2j, step, jnp.nan, -0.0], jnp.complex64),
        "host": {"order": np.arange(step + 5, step + 10), "none": np.zeros((2, 0), np.uint8)},
        "step": jnp.int32(step),
    }


def assert_same(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert (isinstance(x, np.ndarray), x.dtype, x.shape) == (isinstance(y, np.ndarray), y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save_all(folder, scores: dict, **kwargs):
    with Checkpoints(folder, fingerprint=SETTINGS, **kwargs) as store:
        for step, score in scores.items():
            store.save(step, make_state(step), {"next": step + 1}, score=score)


def steps(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.isdigit()}


def array_file(checkpoint):
    """The file that holds most of a checkpoint's numbers."""
    return max((checkpoint / "state").glob("d/*"), key=lambda path: path.stat().st_size)


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_round_trip_is_bit_identical(tmp_path):
    save_all(tmp_path, {7: 0.5})
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        step, state, meta = store.restore_latest(make_state(0) | {"step": jax.ShapeDtypeStruct((), jnp.int32)})
    assert (step, meta) == (7, {"next": 8})
    assert_same(state, make_state(7))


def test_saved_values_are_those_at_the_call(tmp_path):
    """Training continues while a checkpoint is written, and its donated buffers are overwritten."""
    advance = jax.jit(lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=0)
    device, host = jnp.arange(100_000.0), np.arange(100_000)
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        store.save(1, {"device": device, "host": host}, {})
        jax.block_until_ready(advance(device))
        host[:] = 0
        target = {"device": jax.ShapeDtypeStruct((100_000,), device.dtype), "host": np.zeros_like(host)}
        _, state, _ = store.restore_latest(target)
    np.testing.assert_array_equal(state["device"], np.arange(100_000.0))
    np.testing.assert_array_equal(state["host"], np.arange(100_000))


def test_nothing_saved_gives_none(tmp_path):
    with Checkpoints(tmp_path / "new", fingerprint=SETTINGS) as store:
        assert store.restore_latest(make_state(0)) is None
        assert store.restore_best(make_state(0)) is None
        assert store.latest() is None


def test_newest_and_best_are_kept(tmp_path):
    save_all(tmp_path, {1: 0.3, 2: 0.8, 3: 0.8, 4: None, 5: 0.1})
    assert steps(tmp_path) == {"2", "4", "5"}  # of equal scores the earlier
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        assert store.restore_latest(make_state(0))[0] == 5
        assert store.restore_best(make_state(0))[0] == 2
        store.save(6, make_state(6), {}, score=0.9)  # a reopened store has read the old scores
        store.wait()
        assert store.latest() == tmp_path / "6"
        with pytest.raises(ValueError, match="step 6 is already saved"):
            store.save(6, make_state(6), {})
    assert steps(tmp_path) == {"5", "6"}


def test_the_filter_of_orbaxs_tracebacks_goes_with_the_last_store(tmp_path):
    absl = logging.getLogger("absl")
    before = list(absl.filters)
    first, second = (Checkpoints(tmp_path / name, fingerprint=SETTINGS) for name in "ab")
    assert len(absl.filters) > len(before)
    first.close()
    assert len(absl.filters) > len(before)  # the second still needs it
    second.close()
    assert absl.filters == before


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def remove(path):
    path.unlink()


def warnings(caplog) -> list[str]:
    records = [record for record in caplog.records if record.name == checkpoints.__name__]
    messages = [record.getMessage() for record in records]
    caplog.clear()
    return messages


@pytest.mark.parametrize("damage", [flip_bit, truncate, empty, remove])
def test_any_damaged_file_is_named_and_the_previous_checkpoint_used(tmp_path, caplog, damage):
    """Unless the damaged file is one of those that Orbax does not need: then nothing is lost."""
    save_all(tmp_path / "whole", {1: 0.1, 2: 0.9})
    needed = set()
    for path in (tmp_path / "whole" / "2").rglob("*"):
        if not path.is_file() or not path.stat().st_size:
            continue
        shutil.copytree(tmp_path / "whole", folder := tmp_path / "copy")
        damage(folder / path.relative_to(tmp_path / "whole"))
        with Checkpoints(folder, fingerprint=SETTINGS) as store:
            step, state, meta = store.restore_latest(make_state(0))
            assert_same(state, make_state(step))
            assert meta == {"next": step + 1}
            messages = warnings(caplog)
            if step == 1:
                needed.add(path.relative_to(tmp_path / "whole" / "2").parts[:2])
                (message,) = messages
                assert f"checkpoint 2 in {folder} is damaged (" in message and "\n" not in message
                assert message.endswith("); the newest intact one is used: checkpoint 1")
                with pytest.raises(UserError, match=r"checkpoint 2 in .* is damaged .* run the same command again"):
                    store.restore_best(make_state(0))
                store.save(2, make_state(2), {"next": 3}, score=0.9)
            assert step in (1, 2) and (step == 1) == bool(messages)
            assert store.restore_latest(make_state(0))[0] == 2
            assert store.restore_best(make_state(0))[0] == 2
        assert steps(folder) == {"1", "2"} and not warnings(caplog)
        shutil.rmtree(folder)
    assert needed >= {("record", "metadata"), ("state", "d"), ("state", "manifest.ocdbt")}


def test_changed_numbers_that_orbax_reads_without_complaint(tmp_path, caplog):
    """Orbax reads the arrays of another checkpoint without an error, as it would a flipped bit."""
    save_all(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        assert store.restore_best(make_state(0))[0] == 2  # without scores the newest
    shutil.rmtree(tmp_path / "2" / "state")
    shutil.copytree(tmp_path / "1" / "state", tmp_path / "2" / "state")
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        assert store.restore_latest(make_state(0))[0] == 1
    (message,) = warnings(caplog)
    assert "different from what was written: host/order, " in message
    assert "layer_0" in message and "layer_1" not in message


def damage_arrays(checkpoint):
    flip_bit(array_file(checkpoint))


def damage_record(checkpoint):
    remove(checkpoint / "record" / "metadata")


@pytest.mark.parametrize("damage", [damage_arrays, damage_record])
def test_training_does_not_resume_without_the_best_checkpoint(tmp_path, caplog, damage):
    """The next save would delete the damaged checkpoint, and the training would end with another model."""
    save_all(tmp_path, {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.2}, keep=3)
    damage(tmp_path / "2")
    for _ in range(2):
        with Checkpoints(tmp_path, fingerprint=SETTINGS, keep=3) as store:
            for restore in (store.restore_latest, store.restore_best):
                with pytest.raises(UserError, match=r"checkpoint 2 in .*, the best so far, is damaged \(.*\)") as error:
                    restore(make_state(0))
                assert f"remove the folder {tmp_path / '2'} to go on without it" in one_line(error)
    shutil.rmtree(tmp_path / "2")
    with Checkpoints(tmp_path, fingerprint=SETTINGS, keep=3) as store:
        assert store.restore_latest(make_state(0))[0] == 4
        assert store.restore_best(make_state(0))[0] == 4  # the best remaining one
        store.save(5, make_state(5), {}, score=0.1)
        assert store.restore_best(make_state(0))[0] == 4
    assert warnings(caplog) == []


def test_damage_to_another_checkpoint_than_the_best_is_no_error(tmp_path, caplog):
    save_all(tmp_path, {1: 0.5, 2: 0.1, 3: 0.2}, keep=3)
    damage_record(tmp_path / "2")
    with Checkpoints(tmp_path, fingerprint=SETTINGS, keep=3) as store:
        assert store.restore_latest(make_state(0))[0] == 3
        assert store.restore_best(make_state(0))[0] == 1
    (message,) = warnings(caplog)
    assert "checkpoint 2" in message and message.endswith("the newest intact one is used: checkpoint 3")


@pytest.mark.parametrize("name", ["²", "٣", "-1", "1.5", "notes"])
def test_folders_whose_name_is_no_step_are_ignored(tmp_path, name):
    """Python counts "²" and "٣" among the digits."""
    save_all(tmp_path, {1: 0.1})
    shutil.copytree(tmp_path / "1", tmp_path / name)
    save_all(tmp_path, {2: 0.2})
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        assert store.restore_latest(make_state(0))[0] == 2
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("name", ["7", "9" * 200])
def test_a_copy_under_another_number_is_no_checkpoint_of_that_step(tmp_path, caplog, name):
    save_all(tmp_path, {1: 0.1, 2: 0.2})
    shutil.copytree(tmp_path / "1", tmp_path / name)
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        assert store.restore_latest(make_state(0))[0] == 2
        (message,) = warnings(caplog)
        assert f"checkpoint {name} in {tmp_path} is damaged (ValueError: it is a copy of step 1)" in message
        store.save(3, make_state(3), {})
        assert store.restore_best(make_state(0))[0] == 2
    assert steps(tmp_path) == {"2", "3"}


def test_only_damaged_checkpoints_do_not_start_from_scratch(tmp_path):
    save_all(tmp_path, {1: 0.1, 2: 0.2})
    flip_bit(array_file(tmp_path / "1"))
    remove(tmp_path / "2" / "record" / "metadata")
    for _ in range(2):
        with (
            Checkpoints(tmp_path, fingerprint=SETTINGS) as store,
            pytest.raises(UserError, match=r"is damaged \(1: .*; 2: .*\); rename or remove") as error,
        ):
            store.restore_latest(make_state(0))
        assert str(tmp_path) in one_line(error)


def test_other_settings_are_listed(tmp_path):
    save_all(tmp_path, {1: 0.1})
    other = {"model": {"layers": 6, "sizes": [8, 8]}, "seed": 0, "lr": 1e-3}
    with pytest.raises(UserError) as error:
        Checkpoints(tmp_path, fingerprint=other)
    message = one_line(error)
    assert "model.layers is 4 there, 6 here; seed is absent there, 0 here; choose another --workdir" in message
    assert "sizes" not in message and "lr" not in message


def test_checkpoints_of_older_versions_are_refused(tmp_path):
    (tmp_path / "fingerprint.json").write_text("{}")
    with pytest.raises(UserError, match="of an older version of aire; choose another --workdir"):
        Checkpoints(tmp_path, fingerprint=SETTINGS)


def test_settings_that_an_older_checkpoint_lacks_are_at_their_defaults(tmp_path):
    state = {"params": {"w": np.zeros(2, np.float32)}}
    with Checkpoints(tmp_path, fingerprint={"train": {"epochs": 3}}) as checkpoints:
        checkpoints.save(1, state, {}, score=0.5)
    now = {"train": {"epochs": 3, "accumulate": 1}, "model": {"remat": False}}
    with Checkpoints(tmp_path, fingerprint=now) as checkpoints:
        assert checkpoints.restore_latest(state)[0] == 1
    now["train"]["accumulate"] = 2
    with pytest.raises(UserError, match=r"other settings: train\.accumulate"), Checkpoints(tmp_path, fingerprint=now):
        pass


def test_other_arrays_are_named(tmp_path):
    save_all(tmp_path, {1: 0.1})
    target = make_state(0)
    target["params"]["layer_1"]["B"] = jnp.zeros((2, 4), jnp.float32)
    target["extra"] = target.pop("key")
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        with pytest.raises(UserError) as error:
            store.restore_latest(target)
        assert store.restore_latest(make_state(0))  # it is not the checkpoint's fault
    message = one_line(error)
    assert "params/layer_1/B is 'float32[0, 4]' there, 'float32[2, 4]' here" in message
    assert "key is 'uint32[2]' there, absent here" in message and "extra is absent there, 'uint32[2]' here" in message


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="keep=0"):
        Checkpoints(tmp_path, fingerprint=SETTINGS, keep=0)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory") as error:
        Checkpoints(tmp_path / "file" / "run", fingerprint=SETTINGS)
    assert str(tmp_path / "file" / "run") in one_line(error)


FORGED = {"step": ["x", None], "settings": [None, [], "x"], "meta": [None, 3], "score": [[], "x", float("inf"), True]}
FORGED |= {"arrays": [None, 3, {"a": 1}], "sha256": [None, {"a": 1}], "best": [[], {}, "x"]}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in FORGED.items() for v in values])
def test_a_record_of_wrong_types_is_a_damaged_checkpoint(tmp_path, name, value):
    """Its digest is right, so somebody has written it so."""
    save_all(tmp_path, {1: 0.2, 2: 0.1})
    file = tmp_path / "2" / "record" / "metadata"
    item = json.loads(file.read_text())
    item["text"] = json.dumps(json.loads(item["text"]) | {name: value})
    file.write_text(json.dumps({"text": item["text"], "sha256": digests.of_text(item["text"])}))
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        assert store.restore_latest(make_state(0))[0] == 1


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory") as error:
        Checkpoints(tmp_path / "file", fingerprint=SETTINGS)
    assert str(tmp_path / "file") in one_line(error)
    assert not [record for record in caplog.records if record.exc_info]


def fail_with_full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("name", "newest"), [("mkdir", 2), ("rename", 2), ("replace", 3)])
def test_full_disk_while_committing_or_deleting(tmp_path, monkeypatch, name, newest):
    save_all(tmp_path, {1: 0.1, 2: 0.2})
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device") as error:
            patch.setattr(os, name, fail_with_full_disk)
            store.save(3, make_state(3), {})
            store.wait()
        assert str(tmp_path) in one_line(error)
        assert store.restore_latest(make_state(0))[0] == newest
        assert store.latest() == tmp_path / str(newest)
        store.save(4, make_state(4), {})  # there is space again
    assert steps(tmp_path) == {"2", str(newest), "4"}


def test_full_disk_while_closing(tmp_path, monkeypatch):
    """Orbax raises the error of its threads again when it closes."""
    full = pytest.raises(UserError, match="No space left on device")
    with full as error, Checkpoints(tmp_path / "a", fingerprint=SETTINGS) as store:
        monkeypatch.setattr(store._manager, "close", fail_with_full_disk)
    assert str(tmp_path) in one_line(error)
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path / "b", fingerprint=SETTINGS) as store:
        monkeypatch.setattr(store._manager, "close", fail_with_full_disk)
        raise ZeroDivisionError  # the error that ended the block is not replaced


# Child processes are forked from a server that has imported everything, so each starts at once.


@functools.cache
def child_context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([checkpoints.__name__, "optax"])
    return context


def in_child(function, *args) -> multiprocessing.Process:
    child = child_context().Process(target=function, args=args)
    child.start()
    return child


def save_with_little_space(folder, answers):
    """Child: files above 100 kB cannot be written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    errors = []
    logging.getLogger("absl").addHandler(handler := logging.Handler())
    handler.emit = lambda record: errors.append(record.getMessage())
    noise = np.random.default_rng(0).normal(size=100_000)
    store = Checkpoints(folder, fingerprint=SETTINGS)
    store.save(2, {"noise": noise}, {})
    try:
        store.close()
    except UserError as error:
        answers.put((str(error), errors))


def test_full_disk_while_orbax_writes(tmp_path):
    save_all(tmp_path, {1: 0.1})
    answers = child_context().SimpleQueue()
    child = in_child(save_with_little_space, tmp_path, answers)
    child.join()
    message, logged = answers.get()
    assert str(tmp_path) in message and "File too large" in message and "\n" not in message
    assert logged == []  # Orbax's tracebacks stay away from the user
    with Checkpoints(tmp_path, fingerprint=SETTINGS) as store:
        assert store.restore_latest(make_state(0))[0] == 1


def train(folder):
    """Child: go on from the newest checkpoint, saving every step, until killed."""
    with Checkpoints(folder, fingerprint=SETTINGS) as store:
        found = store.restore_latest(make_state(0))
        for step in range(found[0] + 1 if found else 1, 10_000):
            store.save(step, make_state(step), {"next": step + 1}, score=-step)


def train_with(call, folder):
    """Child: the first call of a function of the system kills it."""
    setattr(os, call, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    train(folder)


def assert_goes_on(folder, least: int) -> int:
    """The newest checkpoint is good and none is damaged; returns its step."""
    with Checkpoints(folder, fingerprint=SETTINGS) as store:
        found = store.restore_latest(make_state(0))
        assert store._damaged == {}
    if found is None:
        assert least == 0
        return 0
    step, state, meta = found
    assert step >= least and meta == {"next": step + 1}
    assert_same(state, make_state(step))
    return step


def test_killed_at_any_moment(tmp_path):
    moments, step = random.Random(0), 0
    for _ in range(6):
        child = in_child(train, tmp_path)
        while max(map(int, steps(tmp_path)), default=0) < step + 2:  # then strike at a random moment within a save
            assert child.is_alive()
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        child.kill()
        child.join()
        step = assert_goes_on(tmp_path, least=step + 2)
    assert step >= 12


@pytest.mark.parametrize("call", ["rename", "replace", "unlink", "rmdir"])
@pytest.mark.parametrize("saved", [0, 2])
def test_killed_while_committing_or_deleting(tmp_path, call, saved):
    save_all(tmp_path, {step: 0.0 for step in range(1, saved + 1)})
    child = in_child(train_with, call, tmp_path)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert_goes_on(tmp_path, least=saved)
