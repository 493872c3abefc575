// Keys of pages, and the dialog that lists them. "/" is console.js's. A person may switch all of them off.
"use strict";

(() => {
  const dialog = document.getElementById("keys");
  if (!dialog) return;
  const offKey = "trustwatch-keys", waitMs = 1500;
  const kept = () => { try { return localStorage.getItem(offKey); } catch { return null; } };
  const choice = dialog.querySelector("[data-keys-switch]");
  const isOn = () => document.documentElement.dataset.keys !== "off";
  const apply = (on) => {
    document.documentElement.dataset.keys = on ? "on" : "off";
    choice.textContent = on ? "Switch the keys off" : "Switch the keys on";
  };
  apply(kept() !== "off");
  choice.addEventListener("click", () => {
    apply(!isOn());
    try { localStorage.setItem(offKey, isOn() ? "on" : "off"); } catch { /* then it lasts as long as the page */ }
  });

  const opener = document.querySelector("[data-keys-open]");
  if (opener) {
    opener.hidden = false;
    opener.addEventListener("click", () => dialog.showModal());
  }

  let begun = -Infinity;  // when "g" was pressed
  document.addEventListener("keydown", (event) => {
    if (!isOn() || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]")) return;
    const second = event.timeStamp - begun < waitMs;
    begun = -Infinity;
    if (event.key === "?") {
      event.preventDefault();
      if (dialog.open) dialog.close(); else dialog.showModal();
    } else if (second) {
      const link = dialog.querySelector(`a[data-go="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); location.assign(link.href); }
    } else if (event.key === "g") begun = event.timeStamp;
  });
})();
