// Draws the charts of a notebook's page with Vega, which the page brings along: as wide as there is room, light or dark as
// the system is, also when that changes. Without script each chart is the picture that it holds.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = [];

  // A chart of several panels is one specification each: side by side where there is room, else below each other.
  const panelsOf = (spec) => {
    const { hconcat, resolve, title, params, ...shared } = spec;
    if (!hconcat) return [{ ...shared, params }];
    return hconcat.map((panel) => {
      const names = new Set(panel.layer.map((layer) => layer.name));
      return { ...shared, ...panel, params: params.filter((param) => !param.views || param.views.some((view) => names.has(view))) };
    });
  };

  // Titles of axes in as many lines as they need.
  const wrapped = (text, most) =>
    text.split(" ").reduce((lines, word) => {
      const longer = `${lines[lines.length - 1]} ${word}`;
      return longer.length > most ? [...lines, word] : [...lines.slice(0, -1), longer];
    }, [""]).map((line) => line.trim()).filter(Boolean);
  const fittedAxis = (axis, room) => (axis && axis.title ? { ...axis, title: wrapped(axis.title, room / 6.5) } : axis);

  const fitted = (spec, width) => ({
    ...spec,
    layer: spec.layer.map((layer) => {
      const { x, y } = layer.encoding;
      const axes = { ...(x && { x: fittedAxis(x, width * 0.6) }), ...(y && { y: fittedAxis(y, spec.height) }) };
      return { ...layer, encoding: { ...layer.encoding, ...axes } };
    }),
    $schema: undefined,
    title: undefined,
    width: "container",
    params: spec.params.map((param) => (param.name === "dark" ? { name: "dark", value: dark.matches } : param)),
    config: {
      ...spec.config,
      background: "transparent",
      axis: { ...spec.config.axis, labelLimit: Math.min(280, width * 0.46) },
      legend: { ...spec.config.legend, columns: Math.max(1, Math.floor(width / 140)), labelLimit: width - 60 },
    },
  });

  const draw = async (box, spec) => {
    const panel = document.createElement("div");
    panel.className = "panel";
    if (spec.title) panel.appendChild(document.createElement("h4")).textContent = spec.title;
    const drawing = panel.appendChild(document.createElement("div"));
    drawing.className = "drawing";
    box.appendChild(panel);
    const { view } = await vegaEmbed(drawing, fitted(spec, drawing.clientWidth), {
      mode: "vega-lite",
      renderer: "svg",
      actions: { export: true, source: false, compiled: false, editor: false },
      tooltip: { theme: "console-look", disableDefaultStyle: false },
    });
    views.push(view);
  };

  for (const figure of document.querySelectorAll("figure.chart")) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const box = figure.querySelector(".panels");
    const panels = panelsOf(spec);
    if (panels.length === 1) panels[0].title = "";
    box.textContent = "";
    for (const panel of panels) draw(box, panel);
  }
  dark.addEventListener("change", () => views.forEach((view) => view.signal("dark", dark.matches).runAsync()));
})();
