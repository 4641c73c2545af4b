// The lineage's scatter. uPlot has the axes and the zoom, the points are painted here; every change of the window asks
// the server for what is seen and stands in the address.
"use strict";
(() => {
  const place = document.getElementById("scatter");
  if (!place) return;
  const run = place.dataset.run, home = `/r/${encodeURIComponent(run)}`, saved = document.documentElement.hasAttribute("data-saved");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const tip = document.getElementById("tip"), told = document.getElementById("told"), legend = document.getElementById("legend");
  const LANE = 15, known = new Map();
  let data = JSON.parse(document.getElementById("points").textContent), chart, picked = null, sent = 0, wait;

  const failed = () => [...new Set(data.v)].filter((v) => data.verdicts[v] !== "PASSED").sort((a, b) => a - b);
  const colour = (i) => data.colour === "verdict" ? css(`--v-${data.names[i]}`) || css("--dim") : css(`--c${i % 8 + 1}`);
  const label = { step: "step", generation: "generation: changes from the seed", hour: "hours since the beginning" };

  // --- painting

  function at(i) {
    const y = data.y[i] == null ? laneY(data.v[i]) : chart.valToPos(data.y[i], "y", true);
    return [chart.valToPos(data.x[i], "x", true), y];
  }
  function laneY(v) {
    const lanes = chart.lanes, k = devicePixelRatio;
    return chart.bbox.top + chart.bbox.height - (lanes.length - lanes.indexOf(v) - 0.5) * LANE * k;
  }

  function paint(u) {
    const { ctx, bbox } = u, k = devicePixelRatio, tones = data.names.map((_, i) => colour(i));
    ctx.save();
    ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
    lanes(u, ctx, k);
    ctx.globalAlpha = data.x.length > 1500 ? 0.55 : 0.75;
    for (let c = 0; c < tones.length; c++) {
      ctx.fillStyle = tones[c];
      for (let i = 0; i < data.x.length; i++) {
        if (data.c[i] !== c) continue;
        const [x, y] = at(i), r = (data.y[i] == null ? 1.8 : 2.4) * k;
        ctx.beginPath(); ctx.arc(x, y, r, 0, 7); ctx.fill();
      }
    }
    ctx.globalAlpha = 1;
    chain(u, ctx, k);
    for (let i = 0; i < data.x.length; i++) if (data.sure[i]) ring(ctx, ...at(i), 4.5 * k, css("--ink"), k);
    if (picked != null) { const i = data.s.indexOf(picked); if (i >= 0) ring(ctx, ...at(i), 7 * k, css("--c5"), 2 * k); }
    ctx.restore();
  }

  function lanes(u, ctx, k) {
    const { bbox } = u;
    u.lanes.forEach((v) => {
      const y = laneY(v);
      ctx.globalAlpha = 1; ctx.strokeStyle = css("--grid"); ctx.lineWidth = k;
      ctx.beginPath(); ctx.moveTo(bbox.left, y - LANE * k / 2); ctx.lineTo(bbox.left + bbox.width, y - LANE * k / 2); ctx.stroke();
    });
  }
  function names(u) {
    const { ctx, bbox } = u, k = devicePixelRatio;
    ctx.save(); ctx.font = `${9.5 * k}px system-ui`; ctx.fillStyle = css("--dim"); ctx.textAlign = "right"; ctx.textBaseline = "middle";
    u.lanes.forEach((v) => ctx.fillText(data.verdicts[v].toLowerCase().replace("_", " "), bbox.left - 6 * k, laneY(v)));
    ctx.restore();
  }

  function chain(u, ctx, k) {
    const { x, y } = data.chain;
    ctx.strokeStyle = css("--ink"); ctx.lineWidth = 1.4 * k; ctx.globalAlpha = 0.85; ctx.beginPath();
    let drawing = false;
    x.forEach((value, i) => {
      if (y[i] == null) return;
      const px = u.valToPos(value, "x", true), py = u.valToPos(y[i], "y", true);
      if (drawing) ctx.lineTo(px, py); else ctx.moveTo(px, py);
      drawing = true;
    });
    ctx.stroke();
    x.forEach((value, i) => { if (y[i] != null) { ctx.fillStyle = css("--ink"); ctx.beginPath(); ctx.arc(u.valToPos(value, "x", true), u.valToPos(y[i], "y", true), 2.8 * k, 0, 7); ctx.fill(); } });
    ctx.globalAlpha = 1;
  }
  function ring(ctx, x, y, r, stroke, width) { ctx.strokeStyle = stroke; ctx.lineWidth = width; ctx.beginPath(); ctx.arc(x, y, r, 0, 7); ctx.stroke(); }

  // --- the chart

  function build() {
    if (chart) chart.destroy();
    const b = data.bounds, low = failed(), axis = { stroke: css("--dim"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--grid"), size: 4 }, font: "11px system-ui", labelFont: "11px system-ui" };
    const height = Math.max(420, Math.min(720, innerHeight - 250)), room = low.length * LANE / (height - 60);
    const bottom = b.y0 - (b.y1 - b.y0) * room / (1 - room);
    chart = new uPlot({
      width: place.clientWidth, height, legend: { show: false }, padding: [10, 14, 0, 0],
      scales: { x: { time: false, range: [b.x0, b.x1] }, y: { range: [bottom, b.y1] } },
      axes: [{ ...axis, ...(data.axis === "hour" ? {} : { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6] }), label: label[data.axis], size: 28, labelSize: 18 }, { ...axis, label: `${data.modelled ? "modelled score" : "score"} (× baseline)`, labelSize: 20, size: 74, filter: (u, splits) => splits.map((v) => v >= b.y0 ? v : null) }],
      series: [{}, { paths: () => null, points: { show: false } }],
      cursor: { drag: { x: true, y: true, setScale: false, uni: 12 }, points: { show: false } },
      hooks: { draw: [paint, names], setSelect: [selected], ready: [listen] },
    }, [[b.x0, b.x1], [b.y0, b.y1]], place);
    chart.lanes = low;
    chart.redraw();
    say();
  }

  function say() {
    const part = data.shown < data.inside ? `${data.shown.toLocaleString("en")} of ${data.inside.toLocaleString("en")} shown, the best of each spot` : `${data.shown.toLocaleString("en")} shown`;
    told.textContent = `${part}; ${data.all.toLocaleString("en")} steps${data.other ? `, ${data.other} of another ranking left out` : ""}`;
    const present = [...new Set(data.c)].sort((a, b) => a - b);
    legend.replaceChildren(...present.map((i) => {
      const item = document.createElement("li"), swatch = document.createElement("i");
      swatch.className = "swatch"; swatch.style.background = colour(i);
      item.append(swatch, data.names[i] || "?");
      return item;
    }));
  }

  function selected(u) {
    const { left, top, width, height } = u.select;
    if (width < 4 && height < 4) return;
    const b = data.bounds, window = { ...b };
    if (width >= 4) [window.x0, window.x1] = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
    if (height >= 4) [window.y0, window.y1] = [Math.max(b.y0, u.posToVal(top + height, "y")), u.posToVal(top, "y")];
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (window.y1 > window.y0) look(window);
  }

  // --- windows

  async function look(window, push = true) {
    const query = new URLSearchParams(location.search);
    for (const edge of ["x0", "x1", "y0", "y1"]) if (window) query.set(edge, String(Number(window[edge].toPrecision(7)))); else query.delete(edge);
    if (saved) return;
    const mine = ++sent, answer = await fetch(`${home}/points?${query}`);
    if (!answer.ok || mine !== sent) return;
    data = await answer.json();
    if (push) history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
    build();
    place.dataset.shown = String(mine);
  }
  const asked = () => { const q = new URLSearchParams(location.search); return q.has("x0") ? data.bounds : null; };
  function zoom(by, cx = 0.5, cy = 0.5) {
    const b = data.bounds, w = b.x1 - b.x0, h = b.y1 - b.y0, x = b.x0 + cx * w, y = b.y0 + cy * h;
    look({ x0: x - cx * w * by, x1: x + (1 - cx) * w * by, y0: y - cy * h * by, y1: y + (1 - cy) * h * by });
  }

  // --- pointing

  function near(u, left, top) {
    const k = devicePixelRatio, x = left * k + u.bbox.left, y = top * k + u.bbox.top;
    let best = null, least = (10 * k) ** 2;
    for (let i = 0; i < data.x.length; i++) {
      const [px, py] = at(i), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best == null ? null : data.s[best];
  }

  async function about(step) {
    if (!known.has(step) && !saved) {
      const answer = await fetch(`${home}/point/${step}`);
      if (answer.ok) known.set(step, await answer.json());
    }
    return known.get(step);
  }

  async function show(step, left, top) {
    const one = await about(step);
    if (!one || picked !== step) return;
    const line = (text, tag = "div") => { const el = document.createElement(tag); el.textContent = text; return el; };
    const head = document.createElement("div");
    head.append(line(one.id || `step ${one.step}`, "b"), ` ${one.verdict}${one.confirmed ? ", confirmed" : ""}`);
    tip.replaceChildren(head, line([one.score !== one.verdict ? one.score : "", one.gain ? `${one.gain} over its parent (${one.outcome})` : ""].filter(Boolean).join(", ")), line(`${one.member}, ${one.kind}; island ${one.island}, generation ${one.generation ?? "–"}`));
    if (one.why) tip.append(line(one.why));
    if (one.said) tip.append(line(one.said));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, left + 16 + box.width > innerWidth ? left - box.width - 12 : left + 16)}px`;
    tip.style.top = `${Math.max(44, Math.min(top + 12, innerHeight - box.height - 8))}px`;
    told.textContent = `${one.id || one.step}: ${one.verdict}, ${one.member}`;
  }

  function pick(step, event) {
    if (step === picked) return;
    picked = step;
    place.dataset.picked = step == null ? "" : String(step);
    chart.redraw(false);
    clearTimeout(wait);
    if (step == null) { tip.hidden = true; return; }
    const over = chart.over.getBoundingClientRect();
    let x = over.left + over.width / 2, y = over.top + 40;
    if (event) [x, y] = [event.clientX, event.clientY];
    else { const i = data.s.indexOf(step); if (i >= 0) { const [px, py] = at(i); x = over.left + (px - chart.bbox.left) / devicePixelRatio; y = over.top + (py - chart.bbox.top) / devicePixelRatio; } }
    wait = setTimeout(() => show(step, x, y), event ? 70 : 0);
  }

  function open(step) { about(step).then((one) => { if (one && one.id) location.href = `${home}/c/${encodeURIComponent(one.id)}`; }); }

  function listen(u) {
    let down = null;
    u.over.addEventListener("mousemove", (event) => { if (!event.buttons) pick(near(u, event.offsetX, event.offsetY), event); });
    u.over.addEventListener("mouseleave", () => pick(null));
    u.over.addEventListener("mousedown", (event) => { down = [event.clientX, event.clientY]; tip.hidden = true; });
    u.over.addEventListener("click", (event) => {
      if (down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 4) return;
      const step = near(u, event.offsetX, event.offsetY);
      if (step != null) open(step);
    });
    u.over.addEventListener("dblclick", () => look(null));
    let turned;
    u.over.addEventListener("wheel", (event) => {
      event.preventDefault();
      clearTimeout(turned);
      const cx = event.offsetX / u.over.clientWidth, cy = 1 - event.offsetY / u.over.clientHeight, by = event.deltaY > 0 ? 1.5 : 1 / 1.5;
      turned = setTimeout(() => zoom(by, cx, Math.max(0, cy)), 60);
    }, { passive: false });
  }

  async function arrow(way) {
    if (picked == null) { pick(data.chain.s.at(-1) ?? data.s.at(-1) ?? null); return; }
    const one = await about(picked);
    if (one && one[way] != null) pick(one[way]);
  }

  place.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
    if (way) { event.preventDefault(); arrow(way); }
    if (event.key === "Enter" && picked != null) open(picked);
    if (event.key === "Escape") pick(null);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select") || event.ctrlKey || event.metaKey) return;
    if (event.key === "+" || event.key === "=") zoom(1 / 2);
    if (event.key === "-") zoom(2);
    if (event.key === "0") look(null);
  });
  for (const [id, act] of [["zoom-in", () => zoom(1 / 2)], ["zoom-out", () => zoom(2)], ["zoom-all", () => look(null)]]) {
    const button = document.getElementById(id);
    if (button) button.addEventListener("click", act);
  }
  document.addEventListener("journal", () => { known.clear(); if (picked == null) look(asked(), false); });
  document.addEventListener("theme", build);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; build(); } });
  build();
})();
