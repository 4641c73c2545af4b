// The theme, before anything is painted: as the system has it, or as it was chosen here.
"use strict";
(() => {
  const kept = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const set = (theme) => { if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme; };
  set(kept());
  window.nextTheme = () => {
    const order = [null, "light", "dark"], now = document.documentElement.dataset.theme || null;
    const next = order[(order.indexOf(now) + 1) % 3];
    set(next);
    try { if (next) localStorage.setItem("theme", next); else localStorage.removeItem("theme"); } catch { /* private window */ }
    document.dispatchEvent(new Event("theme"));
  };
})();
