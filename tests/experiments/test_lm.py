"""The language-model job: its text, its table by hand, its mistakes, and a smoke run."""

import csv
import json

import numpy as np
import pytest

import aire
from aire.utils.errors import UserError
from configs.stdlib_mamba import get_config
from experiments.lm import lm_settings, stdlib_text
from experiments.lm.lm_report import Point, table
from tests.experiments.conftest import call


def test_windows_do_not_overlap_and_targets_are_the_next_bytes():
    split = stdlib_text.windows(bytes(range(10)), 4, 0)
    np.testing.assert_array_equal(split.x, [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(split.y, [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert len(stdlib_text.windows(bytes(1000), 4, 7)) == 7
    with pytest.raises(UserError, match=r"data\.length=10: the shortest split has only 10 bytes"):
        stdlib_text.windows(bytes(10), 10, 0)


def test_each_module_is_in_one_split_and_tests_are_left_out(tmp_path):
    for place in ("ast.py", "json/__init__.py", "json/tests/test_all.py", "encodings/ascii.py", "not_a_module.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / place).write_text(place)
    with pytest.raises(UserError, match="has no sources of the standard library"):
        stdlib_text.sources(tmp_path)
    found = stdlib_text.sources()
    names = [name for modules in found.values() for name in modules]
    assert len(names) == len(set(names)) and {"ast", "json"} <= set(names) and "encodings" not in names
    assert all(stdlib_text.split_of(name) == split for split, modules in found.items() for name in modules)


def test_the_table_has_means_and_standard_deviations_of_perplexities():
    losses = {("uncut", 0, 0.0): 0.0, ("aire", 0, 0.5): np.log(2), ("random", 0, 0.5): np.log(3)}
    losses["random", 1, 0.5] = np.log(5)
    rows = table([Point(*key, loss) for key, loss in losses.items()])
    assert rows == [["columns cut", "0 %", "50 %"], ["aire", "1.000", "2.000"], ["random", "1.000", "4.000 ± 1.414"]]


def test_all_mistakes_of_a_config_are_named():
    config = get_config("smoke")
    config.data.length = 0
    config.model.depth = 0
    config.prune.methods = ("aire", "nothing")
    with pytest.raises(UserError) as error:
        lm_settings.read(config)
    for part in ("data.length=0", "model.depth=0", "prune.methods: unknown"):
        assert part in str(error.value)


@pytest.mark.slow
def test_the_smoke_run_trains_cuts_and_goes_on(data, tmp_path):
    more = "--config=stdlib_mamba:smoke", "--config.prune.methods=('measured', 'random')"
    assert "perplexity" in call(*more, data=data, workdir=tmp_path)
    assert aire.load(tmp_path / "pruned.safetensors").config.state_sizes != (4, 4)
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [(r["method"], r["seed"]) for r in rows] == [
        ("uncut", "0"),
        ("measured", "0"),
        ("random", "0"),
        ("random", "1"),
    ]
    assert all(np.isclose(float(r["perplexity"]), np.exp(float(r["loss"]))) for r in rows)
    first = json.loads((tmp_path / "results.json").read_text())
    call(*more, data=data, workdir=tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["results.csv"] == first["results.csv"]
