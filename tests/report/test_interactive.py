"""The interactive report: its data against the sweep's, and what it does in a browser."""

import base64
import functools
import html
import json
import re
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

import aire
from aire.report import interactive
from aire.report.interactive import MethodSweep, Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RATIOS = [0.0, 0.25, 0.5]
SIZES = {"blocks/0/ssm": 7, "blocks/1/ssm": 600, "blocks/2/ssm": 0}  # of the second, not all are drawn


def made_modes(n, random):
    z = 0.9 * random.uniform(size=n) ** 0.1 * np.exp(3j * random.uniform(size=n))
    B, C = random.normal(size=(2, n))
    return aire.Modes.discrete(jnp.asarray(z, np.complex64), jnp.asarray(B[:, None]), jnp.asarray(C[None]))


@functools.cache
def made(methods=("random", "</script><b>", "surgeon")):
    """A report of three methods. The second one fails at the last ratio."""
    random = np.random.default_rng(0)
    modes = {path: made_modes(n, random) for path, n in SIZES.items()}

    def sweep(fails, knows):
        keep = [{path: random.uniform(size=n) >= ratio for path, n in SIZES.items()} for ratio in RATIOS]
        accuracy = 0.7 - np.array(RATIOS) * random.uniform(size=3)
        predicted = random.uniform(size=(3, 3)) if knows else np.full((3, 3), np.nan)
        measured = np.where(np.arange(3)[:, None] == 1, predicted * 2, np.nan)
        if fails:
            keep[-1], accuracy[-1] = None, np.nan
        return MethodSweep(keep, accuracy, predicted, measured, 1, 0.6)

    sweeps = {name: sweep(i == 1, i != 0) for i, name in enumerate(methods)}
    return Report("made", modes, 0.7, 1.0, {"majority class": 0.2}, RATIOS, sweeps)


def embedded(page):
    """The data in a page, as a browser would find it."""
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_is_small_and_needs_nothing_else():
    page = interactive.html(made())
    assert len(page.encode()) < 6e6
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=", page)
    assert "default-src 'none'" in page and "part: " not in page
    assert page.count("<script") == page.count("</script>") == 3


def test_the_page_has_the_numbers_and_masks_of_the_sweep():
    report = made()
    data = embedded(interactive.html(report))
    assert data["ratios"] == RATIOS and data["uncut"] == 0.7 and data["baselines"] == {"majority class": 0.2}
    assert [layer["states"] for layer in data["layers"]] == list(SIZES.values())
    drawn = [np.array(layer["drawn"], int) for layer in data["layers"]]
    assert drawn[0].tolist() == list(range(7)) and len(set(drawn[1])) == 500 < SIZES["blocks/1/ssm"]
    for layer, states, modes in zip(data["layers"], drawn, report.modes.values(), strict=True):
        z = np.asarray(modes.Lambda_bar, np.complex128)[states]
        np.testing.assert_allclose(layer["steps"], -1 / np.log(np.abs(z)), rtol=2e-3)
        np.testing.assert_allclose(layer["frequency"], np.maximum(np.angle(z) / (2 * np.pi), 1e-4), rtol=1e-3)
    assert [method["name"] for method in data["methods"]] == list(report.methods)
    for method, sweep in zip(data["methods"], report.methods.values(), strict=True):
        assert method["chosen"] == 1 and method["test"] == 0.6
        np.testing.assert_array_equal(np.array(method["accuracy"], float), sweep.accuracy)
        for name in ("predicted", "measured"):
            np.testing.assert_allclose(np.array(method[name], float), getattr(sweep, name), rtol=1e-3)
        for bits, kept, keep in zip(method["masks"], method["kept"], sweep.keep, strict=True):
            if keep is None:
                assert bits is None and kept is None
                continue
            masks = np.concatenate([keep[path][states] for path, states in zip(SIZES, drawn, strict=True)])
            stored = int.from_bytes(base64.b64decode(bits), "little")
            assert [stored >> i & 1 for i in range(len(masks))] == masks.tolist()
            assert kept == [mask.sum() for mask in keep.values()]


def test_many_methods_share_one_colour_and_many_cuts_draw_fewer_states():
    report = made(tuple(map(str, range(9))))
    assert interactive.data(report)["colours"] is None
    many = {str(i): report.methods["0"] for i in range(4000)}
    data = interactive.data(Report("made", report.modes, 0.7, 1.0, {}, RATIOS, many))
    assert [len(layer["drawn"]) for layer in data["layers"]] == [
        7,
        166,
        0,
    ]  # 166 · 3 layers · 3 ratios · 4000 < 6e6 bits


# Moves the slider, switches methods, and writes what the page shows after each step into the page.
PROBE = """
<pre id="probe"></pre><script>
const refused = [];
addEventListener("securitypolicyviolation", (event) => refused.push(event.blockedURI));
const frame = () => new Promise((done) => setTimeout(done, 200));
const trace = (id, name) => document.getElementById(id).data.filter((t) => t.name === name);
const seen = () => ({
  ratio: document.querySelector("#slide output").textContent,
  accuracy: document.getElementById("accuracy-now").textContent,
  mark: trace("accuracy", "now").map((t) => [t.x[0], t.y[0]])[0], bars: trace("states", "kept")[0].y,
  kept: trace("eigenvalues", "kept").map((t) => t.customdata.map((d) => d[0])),
  cut: trace("eigenvalues", "cut").map((t) => t.customdata.map((d) => d[0])),
  predicted: trace("error", "predicted")[0].customdata, measured: trace("error", "measured")[0].customdata,
  markers: document.querySelectorAll("#eigenvalues .scatterlayer .point").length,
});
(async () => {
  const steps = [seen()], slider = document.getElementById("ratio");
  const move = async (to) => {
    slider.value = to;
    slider.dispatchEvent(new Event("input"));
    await frame();
    steps.push(seen());
  };
  await move(2);
  for (const i of [0, 1]) {
    document.querySelectorAll("#methods input")[i].click();
    await frame();
    steps.push(seen());
  }
  const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  document.getElementById("probe").textContent = JSON.stringify({ steps, refused, requests });
})();
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("theme", (0, 1))
def test_in_a_browser_the_slider_and_the_methods_move_everything(theme, tmp_path):
    report, page = made(), tmp_path / "report.html"
    page.write_text(interactive.html(report).replace("</body>", PROBE + "</body>"))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    options += [f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr", "--window-size=1200,1500"]
    options += [f"--blink-settings=preferredColorScheme={theme}"]
    command = [CHROMIUM, *options, "--dump-dom", page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "CONSOLE" not in result.stderr, result.stderr
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', result.stdout)[1]))
    assert found["refused"] == [] and found["requests"] == []
    names = list(report.methods)
    expected = [(names[2], 1), (names[2], 2), (names[0], 2), (names[1], 2)]
    drawn = [np.array(layer["drawn"], int) for layer in interactive.data(report)["layers"]]
    for seen, (name, ratio) in zip(found["steps"], expected, strict=True):
        sweep = report.methods[name]
        assert seen["ratio"] == f"{100 * RATIOS[ratio]:.0f} %"
        if sweep.keep[ratio] is None:
            assert seen["accuracy"] == f"{name} fails at this ratio" and seen["mark"][1] is None
            assert seen["bars"] == [0, 0, 0] and seen["markers"] == 0
            continue
        assert seen["accuracy"] == f"{100 * sweep.accuracy[ratio]:.2f} %"
        assert seen["mark"] == pytest.approx([100 * RATIOS[ratio], 100 * sweep.accuracy[ratio]])
        masks = [np.asarray(mask) for mask in sweep.keep[ratio].values()]
        assert seen["bars"] == [mask.sum() for mask in masks]
        assert seen["kept"] == [states[mask[states]].tolist() for states, mask in zip(drawn, masks, strict=True)]
        assert seen["cut"] == [states[~mask[states]].tolist() for states, mask in zip(drawn, masks, strict=True)]
        assert seen["markers"] == sum(map(len, drawn))
        for kind in ("predicted", "measured"):
            np.testing.assert_allclose(np.array(seen[kind], float), getattr(sweep, kind)[ratio], rtol=1e-3)
