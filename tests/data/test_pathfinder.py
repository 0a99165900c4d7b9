"""Pathfinder: labels against the geometry, images against supersampling, the release's format."""

import hashlib
import pickle
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aire.data.contours import DESIGNS, Scene, draw
from aire.data.pathfinder import Generated, Release, load, read_list
from aire.data.pipeline import Batches
from aire.data.splits import torch_permutation
from aire.utils.errors import UserError
from tests.experiments.conftest import call
from tests.helpers import refused


@pytest.fixture(scope="module", params=DESIGNS)
def drawn(request) -> list[tuple[Scene, bool]]:
    return [(draw(DESIGNS[request.param], bool(i % 2), f"test {i}"), bool(i % 2)) for i in range(30)]


# The geometry --------------------------------------------------------------------------------------------------------


def to_segment(point: complex, begin: complex, end: complex) -> float:
    along = end - begin
    share = ((point - begin) * along.conjugate()).real / abs(along) ** 2
    return abs(point - begin - min(max(share, 0), 1) * along)


def between(one, other) -> float:
    """Return the distance of two segments that do not cross."""
    return min(to_segment(p, *s) for s, points in ((one, other), (other, one)) for p in points)


def linked(scene: Scene) -> list[set]:
    """Group the dashes of a scene. Dashes within two margins of each other are in one group."""
    groups = []
    for dash in (dash for contour in (*scene.contours, *scene.distractors) for dash in contour):
        near = [g for g in groups if any(between(dash, d) <= 2 * scene.margin * (1 + 1e-9) for d in g)]
        groups = [g for g in groups if g not in near] + [set().union({dash}, *near)]
    return groups


def test_the_label_says_whether_the_dots_are_linked(drawn):
    """Use only the distances of the dashes."""
    for scene, connected in drawn:
        ends = [next(g for g in linked(scene) if any(dot in dash for dash in g)) for dot in scene.dots]
        assert (ends[0] == ends[1]) == connected
        assert [len(g) for g in ends] == [scene.design.contour_length] * 2


def test_one_dot_does_not_reveal_the_label(drawn):
    """The first dot is the start of either contour and the second is the end of either contour."""
    marked = set()
    for scene, connected in drawn:
        beginnings, ends = [c[0][0] for c in scene.contours], [c[-1][1] for c in scene.contours]
        marked.add((connected, beginnings.index(scene.dots[0]), ends.index(scene.dots[1])))
    assert {connected for connected, *_ in marked} == {True, False}
    assert all((b == e) == connected for connected, b, e in marked)


def test_dashes_follow_the_design(drawn):
    for scene, _ in drawn:
        design, all_contours = scene.design, (*scene.contours, *scene.distractors)
        ends = np.array([p for contour in all_contours for dash in contour for p in dash])
        assert design.padding <= min(ends.real.min(), ends.imag.min())
        assert max(ends.real.max(), ends.imag.max()) <= design.side - design.padding
        np.testing.assert_allclose(abs(ends[1::2] - ends[::2]), design.dash_length)
        assert abs(scene.contours[0][0][0] - scene.contours[1][0][0]) == pytest.approx(design.seed_distance)
        assert {len(contour) for contour in scene.distractors} <= {design.distractor_length}
        assert len(scene.distractors) <= design.distractors
        for contour in all_contours:
            turns = np.angle([(d - c) / (b - a) for (a, b), (c, d) in pairwise(contour)])
            assert np.all(abs(turns) <= np.pi / 2 / design.continuity)


def test_dashes_do_not_cross(drawn):
    """`between` assumes this."""
    for scene, _ in drawn:
        dashes = [dash for contour in (*scene.contours, *scene.distractors) for dash in contour]
        for (a, b), (c, d) in combinations(dashes, 2):
            sides = [((q - p).conjugate() * (r - p)).imag for p, q, r in ((a, b, c), (a, b, d), (c, d, a), (c, d, b))]
            assert sides[0] * sides[1] > 0 or sides[2] * sides[3] > 0


@pytest.mark.parametrize("name", ["lra128", "small32"])
def test_images_against_supersampling(name):
    """Compare with 8×8 samples per pixel, for designs whose shapes are at least a pixel wide."""
    scene, fine = draw(DESIGNS[name], True, "sampled"), 8
    design = scene.design
    axis = (np.arange(design.side * fine) + 0.5) / fine
    grey = np.zeros((design.side * fine,) * 2)
    z = axis + 1j * axis[:, None]
    for contours, light in ((scene.contours, design.contour_grey), (scene.distractors, design.distractor_grey)):
        for begin, end in (dash for contour in contours for dash in contour):
            offset = (z - (begin + end) / 2) * np.exp(-1j * np.angle(end - begin))
            grey[(abs(offset.real) < design.dash_length / 2) & (abs(offset.imag) < design.dash_width / 2)] = light
    for dot in scene.dots:
        grey[abs(z - dot) < design.marker_radius] = 1
    expected = grey.reshape(design.side, fine, design.side, fine).mean(axis=(1, 3))
    difference = abs(scene.image() / 255 - expected)
    assert difference.max() < 0.25 and difference.mean() < 0.005


# Generating ----------------------------------------------------------------------------------------------------------


def test_images_of_version_1_0_0():
    """If the same options give other images, increase Pathfinder.VERSION and update these digests."""
    digests = {
        name: hashlib.sha256(b"".join(draw(d, c, "pinned").image().tobytes() for c in (True, False))).hexdigest()[:8]
        for name, d in DESIGNS.items()
    }
    assert digests == {"lra32": "903d6276", "lra128": "cab6b669", "small16": "04b4418c", "small32": "0fc168a6"}


def test_an_image_depends_only_on_seed_split_and_index():
    few, more = Generated("small16", 4, 2, 2).splits(), Generated("small16", 7, 3, 2).splits()
    few, more = ({name: list(examples) for name, examples in splits.items()} for splits in (few, more))
    for name, examples in few.items():
        for (image, _), (same, _) in zip(examples, more[name], strict=False):
            np.testing.assert_array_equal(image, same)
        assert [label for _, label in more[name]] == [i % 2 for i in range(len(more[name]))]
    images = [image.tobytes() for examples in more.values() for image, _ in examples]
    images += [image.tobytes() for image, _ in Generated("small16", 4, 1, 1, seed=1).splits()["train"]]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"design": "lra64"}, r"unknown design 'lra64': expected one of \['lra128', 'lra32', 'small16', 'small32'\]"),
        ({"validation_examples": 0}, "validation_examples=0: expected at least 1"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(UserError, match=message):
        Generated(**options)


def test_loading(tmp_path, monkeypatch):
    source = Generated("small32", 5, 3, 2)
    splits = load(tmp_path, source)
    expected = [image for image, _ in source.splits()["train"]]
    monkeypatch.setattr(Generated, "splits", lambda self: pytest.fail("generated a second time"))
    for split in (splits["train"], load(tmp_path, source)["train"]):
        assert (split.x.dtype, split.x.shape, split.y.tolist()) == (np.uint8, (5, 32, 32), [0, 1, 0, 1, 0])
        np.testing.assert_array_equal(split.x, expected)
    batch = splits["train"].take(np.array([3, 1]))
    assert (batch["x"].dtype, batch["x"].shape) == (np.float32, (2, 1024, 1))
    np.testing.assert_allclose(batch["x"][0, :, 0], expected[3].reshape(-1) / 127.5 - 1, atol=1e-6)
    assert batch["lengths"].tolist() == [1024, 1024]


# The release ---------------------------------------------------------------------------------------------------------

# torch.randperm(12, generator=torch.Generator().manual_seed(42))
TORCH_ORDER = [6, 8, 1, 7, 0, 2, 10, 11, 4, 3, 5, 9]


def write_release(folder: Path, side: int = 32, per_list: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Write random images in three lists in the format of the archive; return images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3 * per_list, side, side), np.uint8)
    labels = rng.integers(0, 2, 3 * per_list)
    difficulty = folder / "curv_contour_length_14"
    (difficulty / "metadata").mkdir(parents=True)
    for block, number in enumerate((0, 2, 10)):
        lines = []
        (difficulty / f"imgs/{number}").mkdir(parents=True)
        for i in range(per_list):
            Image.fromarray(images[block * per_list + i]).save(difficulty / f"imgs/{number}/sample_{i}.png")
            lines.append(f"imgs/{number} sample_{i}.png {i} {labels[block * per_list + i]} 1.0 14 4 2 0.5 1 1\n")
        (difficulty / f"metadata/{number}.npy").write_text("".join(lines))
    return images, labels


@pytest.mark.parametrize("side", [32, 128])
def test_the_release_in_the_references_splits(tmp_path, side):
    images, labels = write_release(tmp_path / "lra", side)
    splits = load(tmp_path / "data", Release(tmp_path / "lra", side))
    parts = {"train": TORCH_ORDER[:10], "validation": TORCH_ORDER[10:11], "test": TORCH_ORDER[11:]}
    for name, part in parts.items():
        np.testing.assert_array_equal(splits[name].x, images[part])
        np.testing.assert_array_equal(splits[name].y, labels[part])
    batch = Batches(splits["train"], batch_size=4, seed=0)[0]
    assert batch["x"].shape == (4, side * side, 1) and abs(batch["x"]).max() <= 1


def test_the_order_of_pytorch():
    """The first and last of 200,000, the size of the release, printed by PyTorch 2.13."""
    order = torch_permutation(200_000, seed=42).tolist()
    assert order[:5] == [37542, 143173, 127710, 58234, 152906]
    assert order[160_000:160_003] == [122036, 135593, 30913] and order[-3:] == [198416, 132078, 156497]
    assert sorted(order) == list(range(200_000))


def test_changed_files_are_read_again(tmp_path):
    write_release(tmp_path)
    before = Release(tmp_path, 32).config_name()
    assert Release(str(tmp_path), 32).config_name() == before
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "curv_contour_length_14/imgs/2/sample_1.png")
    assert Release(tmp_path, 32).config_name() != before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("imgs/2/sample_1.png", None, "cannot read .*imgs/2/sample_1.png: No such file"),
        ("imgs/2/sample_1.png", b"", "imgs/2/sample_1.png: the file is empty; get the archive again"),
        ("imgs/2/sample_1.png", "truncated", "sample_1.png.*truncated"),
        ("imgs/2/sample_1.png", "flipped", "sample_1.png.*(broken|damaged)"),
        ("imgs/2/sample_1.png", b"GIF89a no PNG", "cannot read .*sample_1.png: cannot identify image file"),
        ("imgs/2/sample_1.png", "larger", "sample_1.png: 64×64 pixels; expected 32×32"),
        ("metadata/2.npy", pickle.dumps(["imgs/2"]), "2.npy: not text; expected .* pickles are not supported"),
        ("metadata/2.npy", b"\x93NUMPY\x01\x00", "2.npy: not text"),
        ("metadata/2.npy", b"imgs/2 sample_0.png 0 1\nimgs/2 sample_1.png 1", "2.npy, line 2: expected .*'imgs/2 samp"),
        ("metadata/2.npy", b"imgs/2 sample_0.png 0 2 1.0\n", r"2.npy, line 1: expected .* label \(0 or 1\)"),
        ("metadata/2.npy", b"../.. secret.png 0 1 1.0\n", "2.npy, line 1: expected folder, file"),
        ("metadata/2.npy", b"/etc passwd 0 1 1.0\n", "2.npy, line 1: expected folder, file"),
        ("metadata/2.npy", b"", "8 images listed; expected at least 10"),
    ],
)
def test_damaged_files(tmp_path, file, content, message):
    write_release(tmp_path / "lra")
    path = tmp_path / "lra/curv_contour_length_14" / file
    valid = path.read_bytes()
    match content:
        case None:
            path.unlink()
        case "truncated":
            path.write_bytes(valid[: len(valid) // 2])
        case "flipped":
            path.write_bytes(valid[:37] + b"\xff" * 8 + valid[45:])
        case "larger":
            Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
        case _:
            path.write_bytes(content)
    with refused(message, tmp_path / "data"):
        load(tmp_path / "data", Release(tmp_path / "lra", 32))


def test_missing_release(tmp_path):
    with refused(r"missing metadata/\*.npy; expected the folder pathfinder128 of the Long Range"):
        Release(tmp_path / "nowhere", 128).sizes()


def test_spaces_and_missing_last_line_end(tmp_path):
    path = tmp_path / "curv/metadata/0.npy"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"imgs/0  sample_0.png 0 1 1.8\r\nimgs/0 sample_1.png 1 0")
    assert read_list(path) == [(tmp_path / "curv/imgs/0/sample_0.png", 1), (tmp_path / "curv/imgs/0/sample_1.png", 0)]


@pytest.mark.slow
def test_a_run_on_a_release(tmp_path):
    write_release(tmp_path / "lra", side=16, per_list=64)
    args = f"--config.data.lra_release={tmp_path / 'lra'}", "--config.prune.methods=('aire',)"
    printed = call("--config=lra_pathfinder_prune:smoke", *args, data=tmp_path / "data", workdir=tmp_path / "run")
    assert "Pathfinder at 16×16, the release in" in printed and "154 / 19 / 19 examples of up to 256 steps" in printed
    assert (tmp_path / "run/pruned.safetensors").exists()
