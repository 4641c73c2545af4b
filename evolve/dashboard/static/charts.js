// Charts by uPlot from what the server sends (charts.py): columns that share one x, each with a style and a tone.
"use strict";
(() => {
  const charts = new Map();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const tone = (name) => css(`--${name}`) || css("--ink");
  const thin = (number) => number == null ? "–" : Math.abs(number) >= 1e4 ? Math.round(number).toLocaleString("en") : String(Number(number.toPrecision(4)));

  function paths(style) {
    const p = uPlot.paths;
    if (style === "step") return p.stepped({ align: 1 });
    if (style === "edge") return p.stepped({ align: 1 });
    if (style === "area") return p.stepped({ align: -1 });
    if (style === "points" || style === "marks") return () => null;
    return p.linear();
  }

  function series(one, spec) {
    const colour = tone(one.tone), area = one.style === "area", dots = one.style === "points" || one.style === "marks";
    return {
      label: one.label || "low", class: one.label ? "named" : "unnamed", scale: "y", stroke: one.style === "edge" ? colour + "40" : colour, width: one.width || (one.style === "edge" ? 0.5 : area ? 0 : 1.25),
      fill: area ? colour : undefined, dash: one.dash ? [5, 4] : undefined, spanGaps: !dots, paths: paths(one.style),
      points: { show: dots, size: one.style === "marks" ? 7 : spec.small ? 3.5 : 3, stroke: colour, fill: one.style === "marks" ? css("--paper") : colour, width: one.style === "marks" ? 1.75 : 0 },
      value: (u, v, s, i) => one.own && i != null ? thin(one.own[i]) : thin(v),
    };
  }

  function levels(spec) {
    return (u) => {
      const { ctx, bbox } = u;
      for (const [level, label] of spec.lines || []) {
        const y = u.valToPos(level, "y", true);
        if (!(y >= bbox.top && y <= bbox.top + bbox.height)) continue;
        ctx.save();
        ctx.strokeStyle = css("--ink"); ctx.fillStyle = css("--dim"); ctx.globalAlpha = 0.75;
        ctx.lineWidth = devicePixelRatio; ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
        ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
        ctx.font = `${11 * devicePixelRatio}px system-ui`; ctx.textAlign = "right";
        if (label) ctx.fillText(label, bbox.left + bbox.width - 4 * devicePixelRatio, y - 4 * devicePixelRatio);
        ctx.restore();
      }
    };
  }

  function range(spec) {
    return (u, low, high) => {
      if (low == null) return [0, 1];
      if (spec.zero) return [0, spec.top || high * 1.02 || 1];
      const marks = (spec.lines || []).map((line) => line[0]);
      low = Math.min(low, ...marks); high = Math.max(high, ...marks);
      const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
      return [low - room, high + room];
    };
  }

  function axes(spec) {
    const common = { stroke: css("--dim"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--grid"), width: 1, size: 4 }, font: "11px system-ui", labelFont: "11px system-ui" };
    const whole = /^(step|sample|generation)/.test(spec.x) ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6] } : {};
    const values = (u, splits) => splits.map((v) => v == null ? "" : thin(v));
    return [
      { ...common, ...whole, label: spec.x, labelSize: 16, size: 26, values },
      { ...common, label: spec.y, labelSize: 18, size: 48, values, space: spec.small ? 18 : 32 },
    ];
  }

  function options(spec, width) {
    const bands = [];
    spec.series.forEach((one, i) => { if (one.band) bands.push({ series: [i, i + 1], fill: tone(one.tone) + "26" }); });
    return {
      width, height: spec.height + (spec.small || spec.legend === false ? 0 : 30), series: [{ label: spec.x, value: (u, v) => thin(v) }, ...spec.series.map((one) => series(one, spec))], bands, axes: axes(spec),
      scales: { x: { time: false }, y: { range: range(spec) } }, legend: { show: !spec.small && spec.legend !== false, live: true },
      cursor: { points: { size: 6 }, y: false, drag: { x: true, y: false } }, hooks: { draw: [levels(spec)], setCursor: spec.small || spec.legend === false ? [readout] : [] }, padding: [8, 12, 0, 0],
    };
  }

  // Small charts have no legend; what is under the pointer stands in their corner.
  function readout(u) {
    let box = u.over.querySelector(".readout");
    if (!box) { box = document.createElement("div"); box.className = "readout"; u.over.append(box); }
    const at = u.cursor.idx;
    box.textContent = at == null ? "" : [`${thin(u.data[0][at])}:`, ...u.series.slice(1).flatMap((s, i) => u.data[i + 1][at] == null ? [] : [`${s.label} ${s.value(u, u.data[i + 1][at], i + 1, at)}`])].join(" ");
  }

  window.drawChart = (spec) => {
    const place = document.getElementById(spec.dataset.chart);
    if (!place) return;
    const data = JSON.parse(spec.textContent), old = charts.get(place.id);
    if (old) old.destroy();
    place.replaceChildren();
    if (!data.data[0].length) { place.textContent = "nothing yet"; place.classList.add("dim"); return; }
    place.classList.remove("dim");
    const made = new uPlot(options(data, place.clientWidth || 600), data.data, place);
    charts.set(place.id, made);
  };
  // What is in sight is drawn at once, the rest when there is time: a page is there before its last chart is.
  const all = () => document.querySelectorAll("script[data-chart]").forEach(drawChart);
  const later = window.requestIdleCallback || setTimeout, hidden = [];
  for (const spec of document.querySelectorAll("script[data-chart]")) {
    const place = document.getElementById(spec.dataset.chart);
    if (place.getBoundingClientRect().top < innerHeight) drawChart(spec); else hidden.push(spec);
  }
  const next = () => { const spec = hidden.shift(); if (spec) { if (spec.isConnected) drawChart(spec); later(next); } };
  later(next);
  document.documentElement.dataset.ready = "1";
  document.addEventListener("theme", all);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  // On paper every chart is there, and light.
  const root = document.documentElement;
  let before;
  addEventListener("beforeprint", () => { before = root.dataset.theme; hidden.length = 0; root.dataset.theme = "light"; document.dispatchEvent(new Event("theme")); });
  addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; document.dispatchEvent(new Event("theme")); });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; all(); } });
})();
