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
    return [{ ...line, space: 70 }, { ...line, size: 46, ...y }];
  };

  window.trustwatchCharts = {
    rate: (given) => ({
      data: [given.x, given.y],
      options: {
        scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
        axes: axes({}),
        series: [{ value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss} UTC" },
                 { label: given.label, stroke: colour("--accent"), width: 1.5, fill: colour("--accent-weak"),
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
