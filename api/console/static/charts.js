// Charts: uPlot draws the figures that api/charts.py describes, in pages of the console and in reports.
"use strict";

(() => {
  const drawn = new Map();
  const zone = { local: false };  // times are UTC unless a person chose otherwise
  const two = (n) => String(n).padStart(2, "0");
  const colour = (...names) => {
    const style = getComputedStyle(document.documentElement);
    return names.map((name) => style.getPropertyValue(name).trim()).find(Boolean) || "gray";
  };
  const colours = { first: ["--accent", "--first"], second: ["--low", "--second"], allowed: ["--muted", "--soft"] };
  const dashes = { dashed: [6, 4], allowed: [2, 4], "dash-a": [9, 3], "dash-b": [2, 3], "dash-c": [9, 3, 2, 3] };
  const lookOf = (style) => {
    const words = style.split(" "), name = words[0] || "first";
    return { stroke: colour(...(colours[name] || [`--${name}`])), dash: dashes[words.find((word) => dashes[word])] };
  };

  const isTime = (axis) => axis.kind === "time" || axis.kind === "utc";
  const onClock = (axis, s) => (axis.kind === "time" && zone.local ? new Date(s * 1e3) : uPlot.tzDate(new Date(s * 1e3), "Etc/UTC"));
  const zoneName = (axis) => (axis.kind === "time" && zone.local ? Intl.DateTimeFormat().resolvedOptions().timeZone : "UTC");
  const dayOf = (at) => `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const clockOf = (at, seconds) => `${two(at.getHours())}:${two(at.getMinutes())}${seconds ? `:${two(at.getSeconds())}` : ""}`;
  const placeText = (axis, value) => {
    if (value === null || value === undefined) return "–";
    if (!isTime(axis)) return numberText(value);
    const at = onClock(axis, value);
    return `${at.getFullYear()}-${dayOf(at)} ${clockOf(at, true)} ${zoneName(axis)}`;
  };
  const numberText = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toLocaleString("en"));
  const ticks = (axis) => (chart, splits) => splits.map((value, at) => {
    if (value === null) return "";
    if (!isTime(axis)) return axis.log && value < 0.001 ? value.toExponential(0) : numberText(value);
    const shown = onClock(axis, value), wide = chart.scales.x.max - chart.scales.x.min > 86400 * 1.5;
    return wide ? dayOf(shown) : clockOf(shown, at + 1 < splits.length && splits[at + 1] - value < 60);
  });

  const range = (axis, pad) => (_, low, high) => {
    if (low === null) return [0, 1];
    if (axis.log) return uPlot.rangeLog(low, axis.maximum ?? Math.max(high, low * 10), 10, false);
    const from = axis.minimum ?? low - pad, least = axis.kind === "count" ? from + 4 : from === high ? from + 1 : high;
    return [from, axis.maximum ?? Math.max(high + pad, least)];
  };
  const axisOf = (axis, more) => ({
    stroke: colour("--muted", "--soft"), font: "12px system-ui", labelFont: "12px system-ui", labelSize: 18,
    grid: { stroke: colour("--line", "--rule"), width: 1 }, ticks: { stroke: colour("--line", "--rule"), width: 1 },
    ...(isTime(axis) ? {} : { label: axis.label }),
    ...(axis.kind === "count" ? { incrs: [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4, 5, 6].map((p) => n * 10 ** p)).sort((a, b) => a - b) } : {}),
    values: ticks(axis), ...more,
  });

  // A shape for each level: no mark is told from another by its color alone.
  const shapes = {
    low: (c, x, y, r) => c.arc(x, y, r * .8, 0, 2 * Math.PI),
    unknown: (c, x, y, r) => c.arc(x, y, r * .6, 0, 2 * Math.PI),
    medium: (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y + r * .8); c.lineTo(x - r, y + r * .8); c.closePath(); },
    high: (c, x, y, r) => { c.moveTo(x, y - r * 1.2); c.lineTo(x + r * 1.2, y); c.lineTo(x, y + r * 1.2); c.lineTo(x - r * 1.2, y); c.closePath(); },
    critical: (c, x, y, r) => c.rect(x - r * .9, y - r * .9, r * 1.8, r * 1.8),
  };
  const drawMarks = (marks) => (chart) => {
    const c = chart.ctx, r = 5 * devicePixelRatio;
    c.save();
    for (const mark of marks) {
      c.beginPath();
      (shapes[mark.level] || shapes.unknown)(c, chart.valToPos(mark.x, "x", true), chart.valToPos(mark.y, "y", true), r);
      c.fillStyle = colour(`--${mark.level}`);
      c.strokeStyle = colour("--panel", "--paper");
      c.lineWidth = devicePixelRatio;
      c.fill();
      c.stroke();
    }
    c.restore();
  };

  // What a logarithmic axis cannot show is left out.
  const usable = ({ x, y, columns }) => {
    const rows = columns[0].map((at, row) => [at, ...columns.slice(1).map((column) => (y.log && !(column[row] > 0) ? null : column[row]))]);
    const kept = x.log ? rows.filter(([at]) => at > 0) : rows;
    return columns.map((_, column) => kept.map((row) => row[column]));
  };

  const lines = (figure, [places, ...columns]) => {
    const series = [], bands = [], data = [places];
    for (const one of figure.series) {
      const look = lookOf(one.style), values = columns[data.length - 1], count = values.filter((value) => value !== null).length;
      data.push(values);
      series.push({
        label: one.name, width: 1.5, spanGaps: true, ...look, value: (_, value) => numberText(value),
        points: { show: !figure.marks.length && count <= 12 && !one.style.startsWith("allowed"), size: 5, fill: look.stroke },
        ...(one.steps ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}), ...(one.fill ? { fill: colour("--accent-weak") } : {}),
      });
      if (!one.band) continue;
      for (const name of ["from", "to"]) {
        data.push(columns[data.length - 1]);
        series.push({ label: `${one.name}, ${name}`, stroke: "transparent", spanGaps: true, points: { show: false }, value: (_, value) => numberText(value) });
      }
      bands.push({ series: [data.length - 1, data.length - 2], fill: `color-mix(in srgb, ${look.stroke} 15%, transparent)` });
    }
    return { data, series, bands };
  };
  // Each part is drawn as the sum of those below it and itself, the highest sum first: the next one covers the rest of it.
  const stacks = (figure, [places, ...columns]) => {
    const sums = columns.map((_, at) => places.map((_, row) => columns.slice(0, at + 1).reduce((sum, column) => sum + (column[row] || 0), 0)));
    const step = Math.min(...places.slice(1).map((place, at) => place - places[at]), 86400);
    const series = figure.series.map((one, at) => {
      const { stroke } = lookOf(one.style);
      return { label: one.name, stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.8, 40] }),
               value: (_, __, ___, row) => numberText(row === null ? null : columns[at][row]) };
    });
    return { data: [places, ...sums.reverse()], series: series.reverse(), bands: [], pad: step / 2 };
  };

  const draw = (box) => {
    if (drawn.has(box)) return;
    const figure = JSON.parse(box.dataset.figure), columns = usable(figure), { x, y } = figure;
    if (!columns[0].length) return;
    const { data, series, bands, pad = 0 } = (figure.bars ? stacks : lines)(figure, columns);
    const size = () => ({ width: Math.max(200, box.clientWidth), height: Number(box.dataset.height) });
    const chart = new uPlot({
      ...size(), bands, cursor: { y: false }, tzDate: (s) => onClock(x, s),
      scales: { x: { time: isTime(x), distr: x.log ? 3 : 1, range: range(x, pad) }, y: { distr: y.log ? 3 : 1, range: range(y, 0) } },
      axes: [axisOf(x, { space: 70 }), axisOf(y, { size: 52 })],
      series: [{ label: x.label, value: (_, value) => placeText(x, value) }, ...series],
      hooks: { draw: [drawMarks(figure.marks)] },
    }, data, box);
    drawn.set(box, chart);
    new ResizeObserver(() => { if (drawn.get(box) === chart) chart.setSize(size()); }).observe(box);
  };

  const drawAll = () => document.querySelectorAll("[data-figure]").forEach(draw);
  const forget = () => {
    for (const [box, chart] of drawn) if (!box.isConnected) { chart.destroy(); drawn.delete(box); }
  };
  const redraw = () => {
    for (const chart of drawn.values()) chart.destroy();
    drawn.clear();
    drawAll();
  };
  window.trustwatchCharts = { zone, drawAll, forget, redraw };
  document.addEventListener("DOMContentLoaded", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
