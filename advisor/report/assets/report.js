/* Interactive charts: plotly draws, this colours them as the page is coloured, and shows the facts of the point that is
   pointed at or chosen by keyboard. What a report says is anybody's text: it reaches the page as text content only, and
   plotly (which reads a little HTML) escaped. */
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const NARROW = 560; // px: no room for a label beside the point; its facts stand below
  const NARROWED = 0.65; // of markers whose areas differ
  const HOVER_LINE = 48; // characters
  const LONG = 30; // characters of a fact that has a line of its own
  const TICK = 48; // px from tick to tick
  const TICK_UP = 18; // upwards
  const LETTER = 6.6; // px, of a mark's label
  const charts = [];
  const isNarrow = (chart) => chart.plot.clientWidth < NARROW;
  const isMarks = (trace) => trace.yaxis === "y2";

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const LINES = new RegExp(`\\S.{0,${HOVER_LINE - 1}}(?=\\s|$)|\\S{${HOVER_LINE}}`, "gsu"); // whole words, where they fit
  const folded = (text) => (text.match(LINES) ?? [""]).map(escaped).join("<br>");

  /* Words come in short lines, the only breaks there are in them. */
  const lined = (text, narrow) => (narrow ? text : text.replaceAll("<br>", " "));

  function printed([, unit, values], point) {
    const value = values[point];
    return value === null || value === undefined ? "??" : unit ? `${value} ${unit}` : String(value);
  }

  function hoverText(source, curve, point) {
    const facts = source.facts[curve].map((fact) => folded(`${fact[0]}: ${printed(fact, point)}`));
    return [`<b>${folded(source.names[curve] || " ")}</b>`, ...facts].join("<br>");
  }

  /* The figure as plotly takes it: colours of the page as it is now, labels as there is room. */
  function painted(chart) {
    const { source, plot } = chart;
    const narrow = isNarrow(chart);
    plot.style.height = narrow ? `calc(20rem + ${19 * legendLines(source)}px)` : "";
    const data = structuredClone(source.data);
    data.forEach((trace, curve) => {
      const tone = colour(trace.meta);
      Object.assign(trace.marker, { color: tone, line: { color: colour("paper"), width: 1 } });
      if (narrow && Array.isArray(trace.marker.size)) trace.marker.size = trace.marker.size.map((size) => size * NARROWED);
      trace.name = lined(trace.name, narrow);
      if (trace.line) trace.line.color = tone;
      if (trace.error_y) trace.error_y.color = tone;
      trace.textfont = { color: colour("muted"), size: 11 };
      trace.hoverinfo = narrow ? "none" : "text";
      trace.hovertext = narrow ? undefined : trace.x.map((_, point) => hoverText(source, curve, point));
    });
    return { data, layout: layoutOf(source, narrow) };
  }

  function legendLines(source) {
    return source.data.reduce((lines, trace) => lines + (isMarks(trace) ? 0 : trace.name.split("<br>").length), 0);
  }

  function layoutOf(source, narrow) {
    const layout = structuredClone(source.layout);
    const line = colour("line");
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("text") };
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis, { gridcolor: line, linecolor: colour("muted"), zerolinecolor: line, tickcolor: line });
      Object.assign(axis, { showline: axis === layout.xaxis, fixedrange: coarse.matches, separatethousands: true });
      Object.assign(axis, { showspikes: axis === layout.xaxis, spikemode: "across", spikesnap: "hovered data", spikethickness: 1 });
      Object.assign(axis, { spikedash: "dot", spikecolor: colour("muted"), exponentformat: "none" });
      Object.assign(axis.title, { text: lined(axis.title.text, narrow), font: { size: 12 } });
    }
    (layout.shapes || []).forEach((shape) => { shape.line = { color: colour("grey"), width: 1, dash: "dot" }; });
    return Object.assign(layout, {
      autosize: true,
      uirevision: "kept", // zoom and hidden series, when colours change
      dragmode: coarse.matches ? false : "zoom",
      hovermode: "closest",
      hoverdistance: 30,
      paper_bgcolor: colour("paper"),
      plot_bgcolor: colour("paper"),
      font,
      hoverlabel: { align: "left", bgcolor: colour("paper"), bordercolor: colour("muted"), font },
      legend: { orientation: "h", x: 0, xanchor: "left", xref: "container", y: 0, yanchor: "bottom", yref: "container", bgcolor: "rgba(0,0,0,0)" },
      margin: { l: narrow ? 8 : 16, r: 16, t: layout.shapes ? 28 : 12, b: 8 },
      showlegend: true,
    });
  }

  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset+autosize", showTips: false, displaylogo: false };

  function draw(chart) {
    const { data, layout } = painted(chart);
    chart.narrow = isNarrow(chart);
    chart.fitted = null;
    return Plotly.react(chart.plot, data, layout, CONFIG);
  }

  /* A logarithmic axis has its ticks at round numbers, as many as there is room for: powers of two across, 1, 2 and 5
     upwards. Where less than two of them are in sight, plotly chooses. Labels of marks that would touch are left out:
     their facts stay. */
  function fit(chart) {
    const { plot, source } = chart;
    if (chart.narrow !== isNarrow(chart)) {
      draw(chart);
      return;
    }
    const { xaxis, yaxis } = plot._fullLayout;
    const marks = source.data.findIndex(isMarks);
    const seen = JSON.stringify([xaxis, yaxis].map((axis) => [axis.range, axis._length]));
    const plain = xaxis.type !== "log" && yaxis.type !== "log";
    if (chart.fitted === seen || (marks < 0 && plain)) return;
    chart.fitted = seen;
    const ticks = { ...logarithmic("xaxis", xaxis, powersOfTwo), ...logarithmic("yaxis", yaxis, oneTwoFive) };
    Plotly.update(plot, marks < 0 ? {} : { text: [roomy(source.data[marks], xaxis)] }, ticks, marks < 0 ? [] : [marks]);
  }

  function logarithmic(name, axis, round) {
    if (axis.type !== "log") return {};
    const [low, high] = axis.range;
    const values = round(low, high, axis._length / (high - low)).filter((value) => low <= Math.log10(value) && Math.log10(value) <= high);
    if (values.length < 2) return { [`${name}.tickmode`]: "auto" };
    const labels = values.map((value) => value.toLocaleString("en-US", value < 1 ? { maximumSignificantDigits: 3 } : {}));
    return { [`${name}.tickmode`]: "array", [`${name}.tickvals`]: values, [`${name}.ticktext`]: labels };
  }

  /* The whole numbers of a range, and one more on either side. */
  const whole = (low, high) => Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, place) => Math.floor(low) + place);

  function powersOfTwo(low, high, decade) {
    const step = Math.ceil(TICK / (decade * Math.log10(2)));
    return whole(low / Math.log10(2), high / Math.log10(2)).filter((power) => power % step === 0).map((power) => 2 ** power);
  }

  function oneTwoFive(low, high, decade) {
    const digits = decade * Math.log10(2) < TICK_UP ? [1] : [1, 2, 5];
    const step = Math.ceil(TICK_UP / decade);
    return whole(low, high).filter((power) => power % step === 0).flatMap((power) => digits.map((digit) => digit * 10 ** power));
  }

  function roomy(marks, axis) {
    let free = -Infinity;
    return marks.text.map((label, point) => {
      const place = axis.d2p(marks.x[point]);
      const half = (label.length * LETTER) / 2;
      const room = Math.min(place + axis._offset, axis._length - place); // to the chart's left edge, to its right
      if (place - half < free || half > room + 16 || place < 0 || place > axis._length) return "";
      free = place + half + 4;
      return label;
    });
  }

  function show(chart, curve, point) {
    const { panel, source } = chart;
    chart.curve = curve;
    chart.point = point;
    const list = document.createElement("dl");
    for (const fact of source.facts[curve]) {
      const pair = document.createElement("div");
      pair.className = printed(fact, point).length + fact[0].length > LONG ? "long" : "";
      pair.append(word("dt", fact[0]), word("dd", printed(fact, point)));
      list.append(pair);
    }
    panel.querySelector(".hint").hidden = true;
    panel.querySelector(".facts").replaceChildren(word("p", source.names[curve], "series"), list);
    panel.style.minHeight = `${panel.offsetHeight}px`; // it grows, and never jumps back
  }

  function word(tag, text, name) {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    return element;
  }

  /* The points of a series that can be chosen, from left to right. */
  function walk(chart, curve) {
    const { x, y } = chart.source.data[curve];
    return x.map((_, point) => point).filter((point) => x[point] !== null && y[point] !== null).sort((a, b) => x[a] - x[b]);
  }

  function visible(chart) {
    return chart.source.data.map((_, curve) => curve)
      .filter((curve) => chart.plot.data[curve].visible !== "legendonly" && walk(chart, curve).length);
  }

  function chosen(chart, key) {
    const series = visible(chart);
    if (!series.length) return null;
    if (!series.includes(chart.curve)) return [series[0], walk(chart, series[0])[0]];
    const points = walk(chart, chart.curve);
    const place = points.indexOf(chart.point);
    const at = (index) => [chart.curve, points[Math.min(Math.max(index, 0), points.length - 1)]];
    if (key === "ArrowRight") return at(place + 1);
    if (key === "ArrowLeft") return at(place - 1);
    if (key === "Home") return at(0);
    if (key === "End") return at(points.length - 1);
    const step = key === "ArrowDown" ? 1 : series.length - 1;
    const other = series[(series.indexOf(chart.curve) + step) % series.length];
    return [other, nearest(chart, other, chart.source.data[chart.curve].x[chart.point])];
  }

  function nearest(chart, curve, x) {
    const far = (point) => Math.abs(chart.source.data[curve].x[point] - x);
    return walk(chart, curve).reduce((best, point) => (far(point) < far(best) ? point : best));
  }

  function press(chart, event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") {
      Plotly.Fx.unhover(chart.plot);
      chart.panel.querySelector(".facts").replaceChildren();
      chart.panel.querySelector(".hint").hidden = false;
      return;
    }
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
    const next = chosen(chart, event.key);
    if (next) select(chart, ...next);
  }

  /* Hovering called for, plotly draws its label and tells nobody. */
  function select(chart, curve, point) {
    show(chart, curve, point);
    Plotly.Fx.hover(chart.plot, [{ curveNumber: curve, pointNumber: point }], isMarks(chart.source.data[curve]) ? "xy2" : "xy");
  }

  async function start(box) {
    const still = box.parentElement.querySelector(".static");
    const chart = {
      plot: box.querySelector(".plot"),
      panel: box.querySelector(".panel"),
      source: JSON.parse(box.querySelector("script").textContent),
    };
    box.hidden = false;
    try {
      await draw(chart);
    } catch (error) {
      box.hidden = true; // the picture stays
      throw error;
    }
    still.hidden = true;
    charts.push(chart);
    fit(chart);
    chart.plot.on("plotly_hover", ({ points: [at] }) => show(chart, at.curveNumber, at.pointNumber));
    chart.plot.on("plotly_click", ({ points: [at] }) => select(chart, at.curveNumber, at.pointNumber)); // a tap, too
    chart.plot.on("plotly_afterplot", () => fit(chart));
    box.querySelector(".chart").addEventListener("keydown", (event) => press(chart, event));
    box.dataset.ready = "";
  }

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      start(target.querySelector(".interactive"));
    }
  }, { rootMargin: "800px" });
  document.querySelectorAll(".media:has(.interactive)").forEach((media) => near.observe(media));

  dark.addEventListener("change", () => charts.forEach(draw));
  document.addEventListener("keydown", (event) => {
    if (event.key !== " " || !event.target.matches(".sortable thead th")) return;
    event.preventDefault();
    event.target.click();
  });
})();
