"""The page on calibrated pruning from synthetic comparisons, with cells computed by hand."""

import csv

import pytest

from experiments.tools import calibrated_page
from tests.experiments.made_runs import write_compare


def test_the_page_from_comparisons(tmp_path):
    """AIRE cuts 40 % within 1 point, nothing within 0.3 points, and loses 1 point on test."""
    for task in ("lra_listops", "fashion_mnist", "lra_pathfinder"):
        write_compare(tmp_path / f"compare_{task}_small", f"{task},small", ("zoo", 1))
    write_compare(tmp_path / "compare_lra_listops_small_inputs_16", "lra_listops,small,inputs_16", ("zoo",))
    further = tmp_path / "compare_lra_listops_small_reconstruct"
    write_compare(further, "lra_listops,small,reconstruct", ("zoo", 1), first="reconstruct")
    calibrated_page.main([str(tmp_path)])
    with open(tmp_path / "calibrated" / "largest_cut.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    aire = rows["aire"]
    assert [aire[c] for c in ("layer", "ListOps", "Pathfinder", "mean", "within 0.3 points")] == [
        "S5",
        *["40 %"] * 3,
        "0 %",
    ]
    assert [rows["reconstruct"][c] for c in ("ListOps", "Pathfinder", "mean")] == ["40 %", "", ""]
    assert aire["seconds"] == "1.0" and rows["random"]["seconds"] == "3.0"
    with open(tmp_path / "calibrated" / "inputs.csv", newline="") as file:
        (cells,) = (row for row in csv.DictReader(file) if row["method"] == "aire")
    assert [cells[c] for c in ("task", "at", "16", "256", "64")] == ["ListOps", "40 %", "-0.50", "-0.50", ""]
    for theme in ("light", "dark"):
        assert (tmp_path / "calibrated" / f"figure_{theme}.png").read_bytes().startswith(b"\x89PNG")


def test_without_comparisons_there_is_no_page(tmp_path):
    with pytest.raises(SystemExit, match=r"no comparison in .*: run compare_methods"):
        calibrated_page.main([str(tmp_path)])


def test_further_models_count_for_the_methods_that_the_others_have(tmp_path):
    write_compare(tmp_path / "first", "lra_pathfinder,small", ("zoo", 1))
    write_compare(tmp_path / "more", "lra_pathfinder,small", (2,))
    write_compare(tmp_path / "unlike", "lra_pathfinder,small", (3,), first="hankel")
    read = calibrated_page.Compared.read
    joined = read(tmp_path / "first").and_models(read(tmp_path / "more")).and_models(read(tmp_path / "unlike"))
    assert joined.points.keys() == {"aire", "random"}
    assert [model for model, _ in joined.points["aire"]] == ["zoo", "seed_1", "seed_2"]
    assert [c["model"] for c in joined.choices("random", 1.0)] == ["zoo"] * 2 + ["seed_1"] * 2 + ["seed_2"] * 2 + [
        "seed_3"
    ] * 2
    assert joined.uncut.keys() == {"zoo", "seed_1", "seed_2", "seed_3"}
