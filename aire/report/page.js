"use strict";
// The page's data, as aire/report/interactive.py describes it, and what the user has chosen.
const DATA = JSON.parse(document.getElementById("data").textContent);
const LAYERS = DATA.layers, DRAWN = LAYERS.filter((layer) => layer.drawn);
const TOTAL = sum(LAYERS.map((layer) => layer.states));
const NUMBERS = LAYERS.map((_, i) => i + 1);
const PERCENT = DATA.ratios.map((ratio) => 100 * ratio);
const LEAST_ERROR = 1e-5;  // smaller ones are drawn here
const TOLERANCE = `${DATA.tolerance} ${DATA.tolerance === 1 ? "point" : "points"}`;
const dark = matchMedia("(prefers-color-scheme: dark)");
const chosen = { method: DATA.methods.length - 1, ratio: DATA.methods.at(-1).chosen };

const element = (id) => document.getElementById(id);
const slider = element("ratio");

function sum(numbers) { return numbers.reduce((a, b) => a + b, 0); }

function percent(share, digits = 2) { return `${(100 * share).toFixed(digits)} %`; }

function points(share) { return `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(2)} points`; }

function style(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

/** The colour of a method when it is chosen, and when another one is. With many methods, the others are grey. */
function colour(method) {
  const theme = dark.matches ? "dark" : "light";
  return DATA.colours ? DATA.colours[theme][method] : style("--one");
}

function quiet(method) { return DATA.colours ? colour(method) : style("--muted"); }

/** Whether each drawn state of each drawn layer is kept, or null where the method failed. */
function masks(method, ratio) {
  const text = method.masks[ratio];
  if (text === null) return null;
  const bytes = atob(text);
  let next = 0;
  return DRAWN.map((layer) => layer.drawn.map(() => {
    const bit = (bytes.charCodeAt(next >> 3) >> (next & 7)) & 1;
    next += 1;
    return bit === 1;
  }));
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8, font: { size: 13 } }, gridcolor: style("--rule"), linecolor: style("--rule"), zeroline: false,
    ticks: "", automargin: true, ...more,
  };
}

function layout(height, more) {
  return {
    height, uirevision: "kept", showlegend: false, margin: { l: 52, r: 14, t: 10, b: 42 }, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--text"), size: 13 },
    hoverlabel: { bgcolor: style("--ground"), bordercolor: style("--rule"), font: { color: style("--text") } }, ...more,
  };
}

function draw(id, traces, shape) {
  return Plotly.react(id, traces, shape, { displayModeBar: false, responsive: true });
}

function drawAccuracy(now) {
  const line = (method, i) => ({
    name: method.name, meta: i, x: PERCENT, y: method.accuracy.map((a) => a === null ? null : 100 * a),
    mode: "lines", line: { color: quiet(i), width: 1.5 }, opacity: 0.6,
    hovertemplate: `${method.name}<br>%{x:.4~g} % cut: %{y:.2f} %<extra></extra>`,
  });
  const lines = DATA.methods.map(line);
  const own = {
    ...lines[chosen.method], mode: "lines+markers", opacity: 1, line: { color: now.colour, width: 3 },
    marker: { size: 5, color: now.colour },
  };
  const at = (ratio, marker) => ({
    x: [PERCENT[ratio]], y: [own.y[ratio]], mode: "markers", hoverinfo: "skip", marker,
  });
  const ring = at(now.method.chosen, { size: 17, color: "rgba(0,0,0,0)", line: { color: now.colour, width: 2 } });
  const mark = at(chosen.ratio, { size: 13, color: now.colour, line: { color: style("--ground"), width: 2 } });
  const levels = { [`${TOLERANCE} below`]: DATA.uncut - DATA.tolerance / 100, ...DATA.baselines };
  const level = (y) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: 100 * y, y1: 100 * y, layer: "below",
    line: { color: style("--muted"), width: 1, dash: "dot" },
  });
  const upright = {
    type: "line", yref: "paper", x0: PERCENT[chosen.ratio], x1: PERCENT[chosen.ratio], y0: 0, y1: 1, layer: "below",
    line: { color: style("--rule"), width: 2 },
  };
  const note = ([text, y]) => ({
    text, xref: "paper", x: 1, y: 100 * y, xanchor: "right", yanchor: "bottom", showarrow: false,
    font: { size: 11, color: style("--muted") },
  });
  const others = lines.filter((_, i) => i !== chosen.method);
  return draw("accuracy", [...others, own, ring, { ...mark, name: "now" }], layout(300, {
    xaxis: axis("states cut (%)", { range: [-2, Math.max(...PERCENT) + 3], showgrid: false }),
    yaxis: axis("accuracy (%)"), shapes: [upright, ...Object.values(levels).map(level)],
    annotations: Object.entries(levels).map(note),
  }));
}

function drawStates(now) {
  const kept = now.kept ?? LAYERS.map(() => 0), many = LAYERS.length > 16;
  const bars = (y, more) => ({
    type: "bar", x: NUMBERS, y, customdata: LAYERS.map((layer, i) => [layer.name, kept[i], layer.states]),
    hovertemplate: "%{customdata[0]}<br>%{customdata[1]} of %{customdata[2]} states kept<extra></extra>", ...more,
  });
  const before = bars(LAYERS.map((layer) => layer.states), { marker: { color: now.colour, opacity: 0.18 } });
  const after = bars(kept, {
    name: "kept", marker: { color: now.colour }, text: many ? null : kept.map((n) => n.toLocaleString("en")),
    textposition: "outside", cliponaxis: false, textfont: { color: style("--text") },
  });
  return draw("states", [before, after], layout(300, {
    barmode: "overlay", bargap: 0.35, xaxis: axis("layer", { dtick: many ? null : 1, showgrid: false }),
    yaxis: axis("states", { rangemode: "tozero", range: [0, 1.08 * Math.max(...LAYERS.map((l) => l.states))] }),
  }));
}

function drawEigenvalues(now) {
  const columns = innerWidth < 760 ? Math.min(2, DRAWN.length) : Math.min(4, DRAWN.length);
  const rows = Math.ceil(DRAWN.length / columns), suffix = (i) => i ? String(i + 1) : "";
  const kept = now.masks, all = DRAWN.flatMap((layer) => layer.steps), traces = [];
  const size = (energy, n) => (3 + 10 * energy ** 0.25) * Math.min(1, 100 / n) ** 0.25;
  const steps = [Math.log10(Math.min(5, ...all)) - 0.3, Math.log10(Math.max(100, ...all)) + 0.3];
  const shape = layout(Math.max(300, 230 * rows), {
    grid: { rows, columns, pattern: "independent", xgap: 0.06, ygap: 0.22 }, annotations: [],
    margin: { l: 58, r: 14, t: 26, b: 42 },
  });
  const powers = { exponentformat: "power", tickfont: { size: 11 } };
  DRAWN.forEach((layer, i) => {
    const part = (of, marker, name) => {
      const is = layer.drawn.flatMap((_, k) => of(k) ? [k] : []);
      return {
        name, xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}`, mode: "markers",
        x: is.map((k) => layer.frequency[k]), y: is.map((k) => layer.steps[k]),
        customdata: is.map((k) => [layer.drawn[k], layer.energy[k]]),
        marker: { size: is.map((k) => size(layer.energy[k], layer.drawn.length)), ...marker },
        hovertemplate: `state %{customdata[0]}, ${name}<br>time scale %{y:.4~g} steps<br>`
          + "frequency %{x:.3~g} cycles a step<br>energy %{customdata[1]:.3~%} of the largest<extra></extra>",
      };
    };
    const cut = { symbol: "circle-open", color: style("--muted"), opacity: 0.8, line: { width: 1.2 } };
    const full = { color: now.colour, opacity: 0.75, line: { width: 0.5, color: style("--panel") } };
    traces.push(part((k) => kept && !kept[i][k], cut, "cut"), part((k) => kept && kept[i][k], full, "kept"));
    const left = i % columns === 0, bottom = i + columns >= DRAWN.length;
    shape[`xaxis${suffix(i)}`] = axis(bottom ? "frequency (cycles a step)" : "", {
      type: "log", range: [-4.2, -0.15], showticklabels: bottom, dtick: 1, ...powers, matches: i ? "x" : null,
    });
    shape[`yaxis${suffix(i)}`] = axis(left ? "time scale (steps)" : "", {
      type: "log", range: steps, showticklabels: left, dtick: 1, ...powers, matches: i ? "y" : null,
    });
    const number = LAYERS.indexOf(layer), count = now.kept ? now.kept[number] : 0;
    shape.annotations.push({
      text: `<b>layer ${number + 1}</b>: ${count.toLocaleString("en")} of ${layer.states.toLocaleString("en")} kept`, xref: `x${suffix(i)} domain`,
      yref: `y${suffix(i)} domain`, x: 0.5, y: 1, yanchor: "bottom", showarrow: false,
    });
  });
  return draw("eigenvalues", traces, shape);
}

function drawError(now) {
  const known = DATA.methods.flatMap((m) => [...m.predicted, ...m.measured].flat()).filter((e) => e > 0);
  const top = Math.max(1, ...known), low = Math.max(LEAST_ERROR, Math.min(0.01, ...known));
  const shown = (e) => e > 0 ? Math.max(100 * e, 100 * low) : null;
  const line = (method, i, more) => ({
    name: method.name, x: NUMBERS, y: method.predicted[chosen.ratio].map(shown),
    customdata: method.predicted[chosen.ratio], mode: "lines", opacity: 0.6,
    line: { color: quiet(i), width: 1.2 },
    hovertemplate: `layer %{x}<br>${method.name}: predicted %{customdata:.3~%}<extra></extra>`, ...more,
  });
  const predicted = line(now.method, chosen.method, {
    name: "predicted", mode: "lines+markers", opacity: 1, line: { color: now.colour, width: 3 },
    marker: { size: 10, color: now.colour },
  });
  const measured = line(now.method, chosen.method, {
    name: "measured", y: now.method.measured[chosen.ratio].map(shown),
    customdata: now.method.measured[chosen.ratio], mode: "markers", opacity: 1,
    marker: { symbol: "diamond-open", size: 14, color: style("--text"), line: { width: 2 } },
    hovertemplate: "layer %{x}: measured %{customdata:.3~%}<extra></extra>",
  });
  const others = DATA.methods.map((m, i) => line(m, i)).filter((_, i) => i !== chosen.method);
  const nothing = chosen.ratio === 0 ? "nothing is cut" : "no prediction for this method";
  const empty = !predicted.y.some((e) => e !== null);
  return draw("error", [...others, predicted, measured], layout(260, {
    xaxis: axis("layer", { dtick: LAYERS.length > 16 ? null : 1, range: [0.6, LAYERS.length + 0.4], showgrid: false }),
    yaxis: axis("output error (%)", { type: "log", range: [Math.log10(100 * low) - 0.2, Math.log10(100 * top) + 0.2],
      dtick: 1, tickformat: "~g" }),
    annotations: empty ? [{ text: nothing, xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false }] : [],
  }));
}

function write(id, text) { element(id).textContent = text; }

function update() {
  const method = DATA.methods[chosen.method], accuracy = method.accuracy[chosen.ratio];
  const now = {
    method, colour: colour(chosen.method), kept: method.kept[chosen.ratio], masks: masks(method, chosen.ratio),
  };
  document.documentElement.style.setProperty("--accent", now.colour);
  document.querySelectorAll("#methods label").forEach((label, i) => label.style.setProperty("--own", colour(i)));
  element("methods").querySelectorAll("input")[chosen.method].checked = true;
  slider.value = chosen.ratio;
  slider.style.setProperty("--at", `${100 * chosen.ratio / Math.max(1, slider.max)}%`);
  slider.nextElementSibling.textContent = percent(DATA.ratios[chosen.ratio], 0);
  slider.ariaValueText = `${percent(DATA.ratios[chosen.ratio], 0)} of the states cut`;
  write("accuracy-now", accuracy === null ? `${method.name} fails at this ratio` : percent(accuracy));
  write("change-now", accuracy === null ? "" : `(${points(accuracy - DATA.uncut)})`);
  write("states-now", now.kept ? `${sum(now.kept).toLocaleString("en")} of ${TOTAL.toLocaleString("en")}` : "–");
  write("chosen-now", `${percent(DATA.ratios[method.chosen], 0)} (test ${percent(method.test)})`);
  drawAccuracy(now);
  drawStates(now);
  drawEigenvalues(now);
  drawError(now);
}

function describe() {
  document.title = `${DATA.title}: pruning report`;
  write("title", `${DATA.title}: what each cut keeps, and what it costs`);
  write("chosen-name", `largest cut within ${TOLERANCE}`);
  write("accuracy-note", `On the selection split. The uncut model has ${percent(DATA.uncut)}; the ring is the largest `
    + `cut that costs at most ${TOLERANCE}.`);
  const sampled = DRAWN.some((layer) => layer.drawn.length < layer.states);
  const most = Math.max(...DRAWN.map((layer) => layer.drawn.length));
  write("eigenvalues-note", "Filled: kept. Hollow: cut. Larger: more energy (AIRE). Real eigenvalues are at the left edge."
    + (sampled ? ` Drawn is a random sample of ${most} states of a layer.` : "")
    + (DRAWN.length < LAYERS.length ? ` Drawn are the first ${DRAWN.length} of ${LAYERS.length} layers.` : ""));
  const predicts = DATA.methods.some((m) => m.predicted.flat().some((e) => e !== null));
  write("error-note", predicts
    ? "Squared error of the layer's output on the calibration inputs, relative to its energy. Line: predicted for the "
      + "cut of this layer alone. Diamond: measured with all layers cut, at the ring's ratio. A whole layer has no error."
    : "No method of this run uses calibration inputs, so no error is predicted.");
  element("error").parentElement.hidden = !predicts;
}

function controls() {
  DATA.methods.forEach((method, i) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "method", value: i });
    input.addEventListener("change", () => choose(i, chosen.ratio));
    label.append(input, method.name);
    element("methods").append(label);
  });
  slider.max = DATA.ratios.length - 1;
  slider.addEventListener("input", () => choose(chosen.method, Number(slider.value)));
  dark.addEventListener("change", update);
  addEventListener("resize", update);
}

function choose(method, ratio) {
  Object.assign(chosen, { method, ratio });
  update();
}

describe();
controls();
update();
element("accuracy").on("plotly_click", ({ points: [point] }) => {
  if (point.data.meta !== undefined) choose(point.data.meta, point.pointIndex);
});
