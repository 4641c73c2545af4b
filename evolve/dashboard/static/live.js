// Keeps a page up to date and hears its keys. Every half second it asks for the number of the latest event; when that
// has moved the page is fetched again and what is marked `data-live` and differs is replaced: no other state is kept.
"use strict";
(() => {
  const run = document.body.dataset.run, EVERY = 450;
  let seq = Number(document.body.dataset.seq || 0), busy = false;

  async function look() {
    if (document.hidden || busy || document.querySelector("html[data-saved]")) return;
    busy = true;
    try {
      if (run) {
        const answer = await fetch(`/r/${encodeURIComponent(run)}/pulse`);
        if (!answer.ok) return;
        const now = (await answer.json()).seq;
        if (now === seq) return;
        await refresh();
        seq = now;
      } else if (document.querySelector("[data-live]")) await refresh();
    } catch { /* the server is away: the page stays as it is, and asks again */ } finally { busy = false; }
  }

  async function refresh() {
    const live = document.querySelectorAll("[data-live]");
    if (live.length > 1 || !run || document.getElementById("log") || document.getElementById("cells")) {
      const answer = await fetch(location.pathname + location.search, { headers: { "x-refresh": "1" } });
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
    }
    document.dispatchEvent(new Event("journal"));
  }

  function replace(fresh) {
    const charts = new Set();
    for (const old of document.querySelectorAll("[data-live][id]")) {
      const now = fresh.getElementById(old.id);
      if (!now || now.outerHTML === old.outerHTML || old.contains(document.activeElement) && document.activeElement !== document.body && old.querySelector("details[open]")) continue;
      const next = document.importNode(now, true);
      old.replaceWith(next);
      if (window.htmx) htmx.process(next);
      if (next.dataset.chart) charts.add(next);
    }
    for (const spec of charts) if (window.drawChart) drawChart(spec);
  }

  function go(path) { location.href = run ? `/r/${encodeURIComponent(run)}${path}` : "/"; }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog[open]")) return;
    const walk = document.getElementById("walk");
    const way = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
    if (walk && way && !event.target.closest(".scroll")) {
      if (walk.dataset[way]) { event.preventDefault(); location.href = walk.dataset[way]; }
      return;
    }
    const pages = { r: "", l: "/lineage", c: "/cells", x: "/experiments", b: "/c/best" };
    if (event.key in pages && run) go(pages[event.key]);
    else if (event.key === "h") location.href = "/";
    else if (event.key === "t") nextTheme();
    else if (event.key === "?") document.getElementById("help").showModal();
  }

  document.addEventListener("keydown", key);
  document.addEventListener("visibilitychange", look);
  document.addEventListener("click", async (event) => {
    if (event.target.id === "theme") nextTheme();
    if (event.target.id === "keys") document.getElementById("help").showModal();
    const from = event.target.dataset && event.target.dataset.copy;
    if (from) {
      await navigator.clipboard.writeText(document.getElementById(from).textContent.trim());
      event.target.textContent = "copied";
    }
  });
  const filters = document.getElementById("filters");
  if (filters) filters.addEventListener("change", () => {
    for (const field of filters.elements) if (!field.value) field.disabled = true;
    filters.submit();
  });
  setInterval(look, EVERY);
})();
