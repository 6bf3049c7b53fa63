"use strict";
// Draws the page's plots, those in view first, and again when a control or the colour scheme changes.
(() => {
  const content = JSON.parse(document.getElementById("plots").textContent);
  const thumbnails = JSON.parse(document.getElementById("thumbnails").textContent);
  const state = { cost: "train_macs", axis: "epoch", runs: true, bands: -1, hidden: new Set() };
  const AXES = { epoch: "epochs", images: "images seen", macs: "MACs spent on training", seconds: "seconds of training" };
  const COSTS = { train_macs: "MACs to train", cpu_seconds: "CPU seconds to train", parameters: "parameters", macs: "MACs an image" };
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };
  const coarse = matchMedia("(pointer: coarse)").matches; // a finger scrolls, and does not zoom

  // Plotly reads its texts as html.
  const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const variable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = group => variable(`--g${group % 8}`);
  const faint = (hex, alpha) => `rgba(${[1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16)).join(",")},${alpha})`;
  const short = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
  const isShown = group => !state.hidden.has(group);
  const known = values => values.filter(value => value !== null);
  const average = values => known(values).reduce((sum, value) => sum + value, 0) / known(values).length;

  function layout(more) {
    const axis = { gridcolor: variable("--line"), linecolor: variable("--line"), zeroline: false, automargin: true };
    const { xaxis = {}, yaxis = {}, ...rest } = more;
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: variable("--soft") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      margin: { l: 48, r: 12, t: 10, b: 40 }, dragmode: coarse ? false : "zoom", hovermode: "closest",
      hoverlabel: { bgcolor: variable("--card"), bordercolor: variable("--line"), font: { color: variable("--ink") } },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }

  function si(value) {
    for (const [unit, size] of [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]])
      if (value >= size) return +(value / size).toPrecision(3) + unit;
    return String(+value.toPrecision(3)); // below 1000 as it is
  }

  // An axis of costs: logarithmic with its own labels where they span a factor of four or more.
  function costAxis(values, title) {
    const low = Math.min(...values), high = Math.max(...values), axis = title ? { title: { text: title } } : {};
    if (!(low > 0) || high / low < 4) return { ...axis, tickformat: "~s" };
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const digit of high / low < 30 ? [1, 2, 3, 5, 7] : [1, 3]) ticks.push(digit * 10 ** power);
    return { ...axis, type: "log", tickvals: ticks, ticktext: ticks.map(si) };
  }

  function frontier(isWide) {
    const traces = [], means = [];
    const spans = content.frontier.filter((_, index) => isShown(index)).flatMap(group => known(group.costs[state.cost]));
    const axis = costAxis(spans, COSTS[state.cost]), isLog = axis.type === "log";
    const [from, to] = spans.length ? [Math.min(...spans), Math.max(...spans)].map(isLog ? Math.log10 : Number) : [0, 1];
    const isRight = cost => (isLog ? Math.log10(cost) : cost) > from + .6 * (to - from);
    content.frontier.forEach((group, index) => {
      const costs = group.costs[state.cost], used = costs.map((_, at) => at).filter(at => costs[at] !== null);
      if (!isShown(index) || !used.length) return;
      const name = plain(content.groups[index]), cost = average(costs);
      means.push({ cost, accuracy: group.mean });
      traces.push({
        x: used.map(at => costs[at]), y: used.map(at => group.accuracies[at]), mode: "markers", type: "scatter",
        marker: { color: faint(colour(index), .4), size: 7 },
        hovertemplate: used.map(at => `${name}<br>seed ${group.seeds[at]}: %{y:.4f}<br>${si(costs[at])}<extra></extra>`),
      });
      traces.push({
        x: [cost], y: [group.mean], mode: isWide ? "markers+text" : "markers", type: "scatter", text: [`\u2002${plain(short(content.groups[index], 30))}\u2002`],
        textposition: isRight(cost) ? "top left" : "top right", textfont: { color: colour(index), size: 12 }, cliponaxis: false,
        marker: { color: colour(index), size: 13, symbol: Math.floor(index / 8) % 2 ? "diamond" : "circle" },
        error_y: { type: "data", array: [group.half || 0], visible: group.half !== null, color: faint(colour(index), .7), thickness: 1.5, width: 5 },
        hovertemplate: `<b>${name}</b><br>mean %{y:.4f}${group.half === null ? "" : " ± " + group.half.toFixed(4)}<br>${si(cost)}<extra></extra>`,
      });
    });
    means.sort((one, other) => one.cost - other.cost || other.accuracy - one.accuracy);
    let best = -1;
    const front = means.filter(point => point.accuracy > best && (best = point.accuracy, true));
    traces.unshift({
      x: front.map(point => point.cost), y: front.map(point => point.accuracy), mode: "lines", type: "scatter",
      line: { color: variable("--soft"), width: 1, dash: "dot" }, hoverinfo: "skip",
    });
    const margin = (to - from) * .12 || (isLog ? .2 : .2 * to);
    axis.range = [from - margin, to + margin];
    return [traces, layout({ xaxis: axis, yaxis: { title: { text: "test accuracy" } }, margin: { l: 56, r: 16, t: 20, b: 46 } })];
  }

  // The lines of one column of metrics.csv: the mean over seeds where they logged the same steps, and each run.
  function lines(part, column, dash) {
    const traces = [];
    content.curves.forEach((runs, index) => {
      const drawn = runs.filter(run => known(run[part][column]).length && known(run[part + "_costs"][state.axis]).length);
      if (!isShown(index) || !drawn.length) return;
      const alike = drawn.every(run => run[part][column].length === drawn[0][part][column].length);
      const line = { color: colour(index), dash: dash || DASHES[Math.floor(index / 8) % 4] };
      const mode = drawn[0][part][column].length > 1 ? "lines" : "markers";
      const name = plain(content.groups[index]);
      if (state.runs || !alike) for (const run of drawn) traces.push({
        x: run[part + "_costs"][state.axis], y: run[part][column], mode, type: "scatter",
        line: { ...line, width: 1 }, opacity: alike && drawn.length > 1 ? .35 : 1,
        hovertemplate: `${name}<br>seed ${run.seed}: %{y:.4g}<br>%{x:.4s}<extra></extra>`,
      });
      if (alike && (drawn.length > 1 || !state.runs)) traces.push({
        x: drawn[0][part][column].map((_, at) => average(drawn.map(run => run[part + "_costs"][state.axis][at]))),
        y: drawn[0][part][column].map((_, at) => average(drawn.map(run => run[part][column][at]))),
        mode, type: "scatter", line: { ...line, width: 2.4 },
        hovertemplate: `<b>${name}</b><br>mean %{y:.4g}<br>%{x:.4s}<extra></extra>`,
      });
    });
    return traces;
  }

  // The stages of the chosen group's first run.
  function stages() {
    const shapes = [], annotations = [];
    const run = state.bands >= 0 ? content.curves[state.bands][0] : undefined;
    const bands = run ? run.bands : [];
    bands.forEach((band, index) => {
      const [from, to] = band[state.axis];
      if (from === null || to === null) return;
      if (index % 2 === 0) shapes.push({ type: "rect", xref: "x", yref: "paper", x0: from, x1: to, y0: 0, y1: 1, line: { width: 0 }, fillcolor: variable("--band"), layer: "below" });
      if (bands.length <= 12) annotations.push({ x: (from + to) / 2, y: 1, xref: "x", yref: "paper", yanchor: "bottom", showarrow: false, text: `${band.resolution} px`, font: { size: 11 } });
    });
    return { shapes, annotations };
  }

  function curve(name) {
    const traces = name === "loss"
      ? [...lines("training", "train/loss"), ...lines("validation", "val/loss", "dash")]
      : lines(name.startsWith("val/") ? "validation" : "training", name);
    const marks = stages();
    if (!traces.length) marks.annotations.push({ x: .5, y: .5, xref: "paper", yref: "paper", showarrow: false, text: "not recorded by these runs" });
    return [traces, layout({
      ...marks, xaxis: { title: { text: AXES[state.axis], standoff: 6 }, tickformat: "~s", rangemode: "tozero" },
      yaxis: name === "lr" ? { rangemode: "tozero" } : name === "loss" ? costAxis(traces.flatMap(trace => known(trace.y))) : {}, margin: { l: 48, r: 12, t: 22, b: 42 },
    })];
  }

  const worst = Math.max(.01, ...content.matrices.filter(Boolean).flatMap(matrix =>
    matrix.shares.flatMap((row, at) => row.filter((_, other) => other !== at))));

  function matrix(group) {
    const { names, shares, counts } = content.matrices[group];
    const few = names.length <= 12, labels = names.map(name => plain(short(name, 11)));
    const text = few ? shares.map(row => row.map(share => (share >= .005 ? String(Math.round(100 * share)) : ""))) : undefined;
    const hover = shares.map((row, true_) => row.map((share, answer) =>
      `${plain(names[true_])} → ${plain(names[answer])}<br>${counts[true_][answer]} images, ${(100 * share).toFixed(1)}%`));
    const part = (keep, colours, ink) => ({
      z: shares.map((row, at) => row.map((share, other) => ((at === other) === keep ? share : null))), type: "heatmap",
      zmin: 0, zmax: keep ? 1 : worst, colorscale: colours, showscale: false, xgap: few ? 1 : 0, ygap: few ? 1 : 0,
      text, hovertext: hover, hoverinfo: "text", ...(few ? { texttemplate: "%{text}", textfont: { size: 10, color: ink } } : {}),
    });
    const diagonal = variable("--diagonal"), ticks = names.map((_, at) => at);
    const side = { tickvals: few ? ticks : [], ticktext: labels, showgrid: false, ticks: "", fixedrange: true, tickfont: { size: 10 } };
    return [
      [part(true, [[0, diagonal], [1, diagonal]], variable("--soft")),
        part(false, [[0, variable("--card")], [1, variable("--wrong")]], variable("--ink"))],
      layout({
        xaxis: { ...side, tickangle: -45, constrain: "domain" }, margin: { l: 30, r: 4, t: 6, b: 30 },
        yaxis: { ...side, autorange: "reversed", scaleanchor: "x", constrain: "domain" },
      }),
    ];
  }

  const plots = [...document.querySelectorAll("[data-plot]")], seen = new Set();
  function draw(plot) {
    const kind = plot.dataset.plot;
    const [traces, shape] = kind === "frontier" ? frontier(plot.clientWidth > 560) : kind === "matrix" ? matrix(+plot.dataset.group) : curve(kind);
    Plotly.react(plot, traces, shape, CONFIG);
  }
  function redraw(isDue) { for (const plot of seen) if (isDue(plot.dataset.plot)) draw(plot); }
  const isMatrix = kind => kind === "matrix";
  function drawOnce(plot) {
    if (seen.has(plot)) return;
    seen.add(plot);
    draw(plot);
    performance.mark("plotted");
  }
  const observer = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) drawOnce(target);
  }, { rootMargin: "300px" });
  // The others when there is time, one after the other; all of them for paper.
  const whenIdle = window.requestIdleCallback || (callback => setTimeout(callback, 50));
  const next = () => {
    const plot = plots.find(one => !seen.has(one));
    if (plot) drawOnce(plot), whenIdle(next);
  };
  addEventListener("load", () => setTimeout(() => {
    const library = document.createElement("script");
    library.textContent = document.getElementById("plotly").textContent;
    document.head.append(library);
    plots.forEach(plot => observer.observe(plot));
    whenIdle(next);
    addEventListener("beforeprint", () => plots.forEach(drawOnce));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(() => true));
  }, 50));

  for (const row of document.querySelectorAll(".segments")) row.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (!button) return;
    for (const other of row.children) other.setAttribute("aria-pressed", String(other === button));
    state[row.dataset.control] = button.value;
    redraw(kind => (row.dataset.control === "cost" ? kind === "frontier" : kind !== "frontier" && !isMatrix(kind)));
  });
  document.querySelector("[data-control=runs]").addEventListener("change", event => {
    state.runs = event.target.checked;
    redraw(kind => !isMatrix(kind));
  });
  // The stages of the group that has most of them.
  const chosen = document.querySelector("[data-control=bands]"), counts = content.curves.map(runs => (runs[0] ? runs[0].bands.length : 0));
  chosen.value = state.bands = counts.indexOf(Math.max(...counts));
  chosen.addEventListener("change", () => {
    state.bands = +chosen.value;
    redraw(kind => !isMatrix(kind));
  });
  for (const chips of document.querySelectorAll(".chips")) content.groups.forEach((name, index) => {
    const chip = document.createElement("button"), swatch = document.createElement("span");
    swatch.className = `swatch g${index % 8} ring${Math.floor(index / 8) % 4}`;
    chip.append(swatch, name);
    chip.dataset.group = index;
    chip.setAttribute("aria-pressed", "true");
    chip.title = "show or hide this group";
    chip.addEventListener("click", () => {
      state.hidden.has(index) ? state.hidden.delete(index) : state.hidden.add(index);
      for (const other of document.querySelectorAll(`.chips [data-group="${index}"]`)) other.setAttribute("aria-pressed", String(isShown(index)));
      redraw(kind => !isMatrix(kind));
    });
    chips.append(chip);
  });

  for (const image of document.querySelectorAll("img[data-place]")) image.src = thumbnails[image.dataset.place];
  const choice = document.querySelector("[data-control=gallery]");
  if (choice) choice.addEventListener("change", () => {
    for (const part of document.querySelectorAll("[data-gallery]")) part.hidden = part.dataset.gallery !== choice.value;
  });

  // Tables sort by the column that is clicked: numbers downwards first, names upwards.
  for (const table of document.querySelectorAll(".sortable")) table.tHead.addEventListener("click", event => {
    const heading = event.target.closest("th");
    if (!heading) return;
    const column = heading.cellIndex, isNumber = heading.classList.contains("number");
    const order = heading.dataset.order ? (heading.dataset.order === "up" ? "down" : "up") : isNumber ? "down" : "up";
    for (const other of table.tHead.rows[0].cells) delete other.dataset.order;
    heading.dataset.order = order;
    const units = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };
    const key = row => {
      const text = row.cells[column].textContent.trim(), [, digits, unit] = /^[<+]?(-?[\d.]+)([kMGTP]?)/.exec(text) || [];
      return isNumber ? (digits === undefined ? -Infinity : digits * (units[unit] || 1)) : text;
    };
    const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
    rows.sort(([one], [other]) => (one < other ? -1 : one > other ? 1 : 0) * (order === "up" ? 1 : -1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  });
})();
