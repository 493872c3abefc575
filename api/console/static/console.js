// What pages do beyond htmx: ages of times, the state of the live connection, charts, notices. No library of ours.
"use strict";

(() => {
  const lasts = (s) => {
    if (s < 1) return "now";
    for (const [unit, size, most] of [["s", 1, 120], ["min", 60, 7200], ["h", 3600, 172800]])
      if (s < most) return `${Math.floor(s / size)} ${unit} ago`;
    return `${Math.floor(s / 86400)} d ago`;
  };
  const ages = () => {
    for (const one of document.querySelectorAll("[data-age]")) {
      const at = one.previousElementSibling;  // pages say UTC; who wonders what that is here finds it under the pointer
      if (at && at.matches("time") && !at.title) at.title = `${new Date(one.dataset.age).toLocaleString(undefined, { timeZoneName: "short" })} here`;
      const seconds = (Date.now() - Date.parse(one.dataset.age)) / 1000;
      if (seconds > -60) one.textContent = lasts(Math.max(0, seconds));
    }
  };

  const live = (state, word) => {
    const shown = document.getElementById("live");
    if (!shown) return;
    shown.dataset.state = state;
    shown.querySelector(".word").textContent = word;
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = new Map();
  const utc = (at) => uPlot.tzDate(new Date(at * 1e3), "Etc/UTC");

  const draw = (box) => {
    const source = document.getElementById(box.dataset.source);
    if (!source || charts.has(box)) return;
    const given = JSON.parse(source.textContent);
    if (!given.x.length) return;
    const make = window.trustwatchCharts[box.dataset.chart];
    const options = make(given);
    const size = () => ({ width: Math.max(200, box.clientWidth), height: Number(box.dataset.height || 220) });
    const chart = new uPlot({ ...size(), tzDate: utc, cursor: { y: false }, ...options.options }, options.data, box);
    charts.set(box, chart);
    new ResizeObserver(() => chart.setSize(size())).observe(box);
  };

  const axes = (y) => {
    const line = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 },
                   ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui" };
    return [{ ...line, space: 70, values: ticks }, { ...line, size: 46, ...y }];
  };

  const two = (n) => String(n).padStart(2, "0");
  const clock = (s, withDay) => {
    const d = new Date(s * 1000);
    const time = `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}`;
    return withDay ? `${d.getUTCFullYear()}-${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())} ${time}:${two(d.getUTCSeconds())}` : time;
  };
  const ticks = (chart, splits) => {
    const wide = chart.scales.x.max - chart.scales.x.min > 86400 * 1.5;
    return splits.map((s) => (s === null ? "" : wide ? `${clock(s, true).slice(5, 10)}` : splits[1] - splits[0] < 60 ? clock(s, true).slice(11) : clock(s)));
  };
  const timeSeries = { label: "Time", value: (_, s) => (s === null ? "–" : `${clock(s, true)} UTC`) };

  // A shape for each level, at its decision: no mark is told from another by its colour alone.
  const shapes = {
    low: (c, x, y, r) => c.arc(x, y, r * .8, 0, 2 * Math.PI),
    unknown: (c, x, y, r) => c.arc(x, y, r * .6, 0, 2 * Math.PI),
    medium: (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y + r * .8); c.lineTo(x - r, y + r * .8); c.closePath(); },
    high: (c, x, y, r) => { c.moveTo(x, y - r * 1.2); c.lineTo(x + r * 1.2, y); c.lineTo(x, y + r * 1.2); c.lineTo(x - r * 1.2, y); c.closePath(); },
    critical: (c, x, y, r) => c.rect(x - r * .9, y - r * .9, r * 1.8, r * 1.8),
  };
  const markDecisions = (marks) => (chart) => {
    const c = chart.ctx, r = 5 * devicePixelRatio;
    c.save();
    for (const mark of marks) {
      const x = chart.valToPos(mark.x, "x", true), y = chart.valToPos(mark.y, "y", true);
      c.beginPath();
      (shapes[mark.level] || shapes.unknown)(c, x, y, r);
      c.fillStyle = colour(`--${mark.level}`);
      c.strokeStyle = colour("--panel");
      c.lineWidth = devicePixelRatio;
      c.fill();
      c.stroke();
    }
    c.restore();
  };

  window.trustwatchCharts = {
    risk: (given) => ({
      data: [given.x, given.y],
      options: {
        scales: { y: { range: [0, 1] } },
        axes: axes({ values: (_, all) => all.map((v) => v.toFixed(1)) }),
        series: [timeSeries, { label: "risk", stroke: colour("--accent"), width: 1.5, fill: colour("--accent-weak"), points: { show: false },
                               value: (_, v) => (v === null ? "–" : v.toFixed(2)) }],
        hooks: { draw: [markDecisions(given.marks)] },
      },
    }),
    rate: (given) => ({
      data: [given.x, given.y],
      options: {
        scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
        axes: axes({}),
        series: [timeSeries,
                 { points: { show: false }, label: given.label, stroke: colour("--accent"), width: 1.5, fill: colour("--accent-weak"),
                   value: (_, v) => (v === null ? "–" : v.toFixed(1)) }],
      },
    }),
  };

  const drawAll = () => document.querySelectorAll("[data-chart]").forEach(draw);
  window.trustwatchColour = colour;
  window.trustwatchAxes = axes;

  const forget = () => {
    for (const [box, chart] of charts) if (!box.isConnected) { chart.destroy(); charts.delete(box); }
  };

  document.addEventListener("DOMContentLoaded", () => { drawAll(); ages(); setInterval(ages, 5000); });
  document.addEventListener("htmx:afterSettle", () => { forget(); drawAll(); ages(); });
  document.addEventListener("htmx:sseOpen", () => live("open", "live"));
  document.addEventListener("htmx:sseError", () => live("lost", "reconnecting"));
  document.addEventListener("htmx:sseClose", (event) => {
    if (event.detail && event.detail.type === "message") live("over", "signed out");
  });
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.matches("[data-close]")) event.target.closest(".notice").remove();
  });
  document.addEventListener("keydown", (event) => {
    const writing = event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]");
    const search = document.querySelector("[data-search]");
    if (event.key === "/" && search && !writing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); search.focus(); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of charts.values()) chart.destroy();
    charts.clear();
    drawAll();
  });
})();
