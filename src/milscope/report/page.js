"use strict";
(() => {
  for (const tools of document.querySelectorAll("form.tools")) {
    const section = tools.closest("section");
    const { find, split, label, size } = tools.elements;
    const shown = tools.querySelector("output");
    const rows = [...section.querySelectorAll(".all tbody tr")];
    const cards = [...section.querySelectorAll("article.slide")];
    const filter = () => {
      const words = find.value.trim().toLowerCase();
      const keeps = ({ dataset }) =>
        (split.value === "all" || dataset.split === split.value) &&
        (label.value === "all" || dataset.label === label.value) &&
        (dataset.slide + " " + dataset.patient).toLowerCase().includes(words);
      for (const part of [...rows, ...cards]) part.hidden = !keeps(part);
      const count = (parts) => parts.filter((part) => !part.hidden).length;
      shown.textContent = `${count(rows)} of ${rows.length} slides, ${count(cards)} with cells`;
    };
    const resize = () => document.documentElement.style.setProperty("--crop", `${size.value}px`);
    tools.addEventListener("submit", (event) => event.preventDefault());
    for (const control of [find, split, label]) control.addEventListener("input", filter);
    size.addEventListener("input", resize);
    tools.hidden = false;
    filter();
  }
  for (const kind of ["pointerover", "pointerout"]) {
    document.addEventListener(kind, (event) => {
      const part = event.target.closest(".crops li, .mark");
      if (!part) return;
      const same = part.closest("article").querySelectorAll(`[data-rank="${part.dataset.rank}"]`);
      for (const each of same) each.classList.toggle("on", kind === "pointerover");
    });
  }
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
