// What pages do beyond htmx: times and their ages, order of rows, the live connection, notices. No library of ours.
"use strict";

(() => {
  const two = (n) => String(n).padStart(2, "0");
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

  // Pages say UTC; a person may choose the time of the place where they are, and it is remembered in this browser.
  const zoneKey = "trustwatch-times";
  const kept = () => { try { return localStorage.getItem(zoneKey); } catch { return null; } };
  let local = kept() === "local";
  trustwatchCharts.zone.local = local;
  const zoneName = () => (local ? Intl.DateTimeFormat().resolvedOptions().timeZone : "UTC");
  const parts = (date) => (local
    ? [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()]
    : [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]);
  const offset = (date) => {
    const minutes = -date.getTimezoneOffset(), size = Math.abs(minutes);
    return `${minutes < 0 ? "−" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
  };
  const times = () => {
    for (const one of document.querySelectorAll("time[datetime]")) {
      const at = new Date(one.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      const [year, month, day, hour, minute, second] = parts(at).map(two);
      const clocked = `${hour}:${minute}:${second}`;
      one.textContent = "clock" in one.dataset ? clocked : `${year}-${month}-${day} ${clocked} ${local ? offset(at) : "UTC"}`;
      one.title = local ? `${one.dateTime.slice(0, 19).replace("T", " ")} UTC` : `${at.toLocaleString(undefined, { timeZoneName: "short" })} here`;
    }
    for (const one of document.querySelectorAll("[data-zone]")) one.textContent = local ? `local (${zoneName()})` : "UTC";
    for (const one of document.querySelectorAll("[data-other-zone]")) {
      one.hidden = false;
      one.textContent = local ? "Show UTC" : "Show local time";
    }
  };
  const chooseZone = () => {
    local = !local;
    try { localStorage.setItem(zoneKey, local ? "local" : "utc"); } catch { /* then it lasts as long as the page */ }
    trustwatchCharts.zone.local = local;
    times();
    trustwatchCharts.redraw();
  };

  // Rows that are shown, by a column of theirs: its heading is a button. What was chosen survives live updates.
  const sorted = new Map();
  const nameOf = (table) => `${(table.closest("[aria-label]") || table).getAttribute("aria-label") || ""}`;
  const valueOf = (cell) => {
    const time = cell.querySelector("time[datetime]"), level = cell.querySelectorAll(".level");
    if (time) return Date.parse(time.dateTime);
    if (level.length) return ["unknown", "low", "medium", "high", "critical"].indexOf(level[level.length - 1].lastChild.textContent);
    const text = cell.textContent.trim(), number = Number(text.replace(/,/g, ""));
    return text && !Number.isNaN(number) ? number : text.toLowerCase();
  };
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  const sortRows = (table, column, descending) => {
    const body = table.tBodies[0], rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => (descending ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    [...table.tHead.rows[0].cells].forEach((cell, at) => {
      if (at === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending"); else cell.removeAttribute("aria-sort");
    });
  };
  const askedOrder = () => new URLSearchParams(location.search).get("sort") || "";
  // The order is part of the address for tables whose columns have names: a bookmark keeps it.
  const rememberOrder = (cell, descending) => {
    if (!cell.dataset.column) return;
    const order = `${descending ? "-" : ""}${cell.dataset.column}`;
    const ordered = (href) => { const url = new URL(href, location.href); url.searchParams.set("sort", order); return url; };
    history.replaceState(history.state, "", ordered(location.href));
    for (const link of document.querySelectorAll(".pager a")) link.href = ordered(link.href);
    for (const input of document.querySelectorAll("[data-sort]")) { input.value = order; input.disabled = false; }
  };
  const chosenOrder = (table, head) => {
    const before = nameOf(table) && sorted.get(nameOf(table));
    if (before) return before;
    const order = askedOrder(), name = order.replace(/^-/, "");
    const column = name ? [...head.cells].findIndex((cell) => cell.dataset.column === name) : -1;
    return column < 0 ? null : [column, order.startsWith("-")];
  };
  const addSortButtons = (table, head) => {
    if (innerWidth <= 640 || head.querySelector("button")) return;  // there the heads of tables are not to be seen
    [...head.cells].forEach((cell, column) => {
      const text = cell.textContent.trim();
      if (!text) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = text;
      button.title = "sort the rows that are shown";
      button.addEventListener("click", () => {
        const descending = cell.getAttribute("aria-sort") === "ascending";
        sorted.set(nameOf(table), [column, descending]);
        sortRows(table, column, descending);
        rememberOrder(cell, descending);
      });
      cell.replaceChildren(button);
    });
  };
  const sortable = () => {
    for (const table of document.querySelectorAll("table.cards")) {
      const head = table.tHead && table.tHead.rows[0], rows = table.tBodies[0] ? [...table.tBodies[0].rows] : [];
      if (!head || rows.length < 2 || rows.some((row) => row.cells.length !== head.cells.length)) continue;
      addSortButtons(table, head);
      const chosen = "ordered" in table.dataset ? null : chosenOrder(table, head);
      table.dataset.ordered = "";
      if (chosen) sortRows(table, ...chosen);
    }
  };

  document.addEventListener("DOMContentLoaded", () => { times(); ages(); sortable(); setInterval(ages, 5000); });
  // What a person has opened stays open, and where it was scrolled to, though a live update brings the part anew.
  let opened = new Map(), focused = "";
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!(event.detail.target instanceof Element)) return;
    const open = event.detail.target.querySelectorAll("details[id][open]");
    opened = new Map([...open].map((one) => [one.id, one.querySelector(".scroll")?.scrollTop || 0]));
    focused = event.detail.target.contains(document.activeElement) ? document.activeElement.id : "";
  });
  const reopen = () => {
    for (const [id, scrolled] of opened) {
      const part = document.getElementById(id), box = part && part.querySelector(".scroll");
      if (part) part.open = true;
      if (box) box.scrollTop = scrolled;
    }
    // htmx gives the focus back before: what stands in a part that was still closed could not take it
    if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus({ preventScroll: true });
    opened = new Map();
  };
  document.addEventListener("htmx:afterSwap", reopen);
  const renew = () => { trustwatchCharts.forget(); times(); trustwatchCharts.drawAll(); ages(); sortable(); };
  document.addEventListener("htmx:afterSwap", renew);  // before anybody sees it otherwise
  document.addEventListener("htmx:afterSettle", renew);
  // A link to a moment leads to what is loaded after the page: once, so that nobody is moved who reads on.
  let linked = location.hash.startsWith("#at-") ? location.hash.slice(1) : "";
  document.addEventListener("htmx:afterSettle", () => {
    const moment = linked && document.getElementById(linked);
    if (moment) { linked = ""; moment.closest("details")?.setAttribute("open", ""); moment.classList.add("linked"); moment.scrollIntoView({ block: "center" }); }
  });
  document.addEventListener("htmx:sseOpen", () => live("open", "live"));
  document.addEventListener("htmx:sseError", () => live("lost", "reconnecting"));
  document.addEventListener("htmx:sseClose", (event) => {
    if (event.detail && event.detail.type === "message") live("over", "signed out");
  });
  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    if (event.target.matches("[data-close]")) event.target.closest(".notice").remove();
    if (event.target.matches("[data-other-zone]")) chooseZone();
    if (event.target.matches("[data-print]")) window.print();
  });
  document.addEventListener("keydown", (event) => {
    const writing = event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]");
    const search = document.querySelector("[data-search]");
    if (event.key === "/" && search && !writing && document.documentElement.dataset.keys !== "off" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      document.querySelector("dialog[open]")?.close();  // behind the list of keys nothing takes the focus
      search.focus();
    }
  });
})();
