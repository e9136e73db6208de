"use strict";
// A slide's page: heat map and marks, the size of cells, a cell in focus, and the way to the slides beside it.
(() => {
  const kept = (store, name, value) => {
    try {
      if (value === undefined) return JSON.parse(store().getItem(name));
      store().setItem(name, JSON.stringify(value));
    } catch { /* a browser that keeps nothing */ }
    return null;
  };
  const lasting = () => localStorage;
  const here = location.pathname.replace(/slides\/[^/]*$/, "");
  const number = Number(location.pathname.match(/(\d+)\.html$/)?.[1]);
  const typing = (event) => event.target.closest("input:not([type=range],[type=checkbox]), select, textarea")
    || event.ctrlKey || event.metaKey || event.altKey;

  // What the list showed when it was left is what one walks through.
  const walk = kept(() => sessionStorage, `milscope ${here}walk`);
  if (walk?.includes(number)) {
    const steps = document.querySelector(".steps");
    const place = walk.indexOf(number);
    const link = (rel, to, text) => {
      const found = Object.assign(document.createElement("a"), { rel, href: `${to}.html`, textContent: text });
      return to === undefined ? "" : found;
    };
    const said = document.querySelector("#place");
    said.textContent = `${place + 1} of ${walk.length} in the list`;
    steps.replaceChildren(link("prev", walk[place - 1], "← before"), said, link("next", walk[place + 1], "next →"));
  }

  for (const section of document.querySelectorAll("section.slide")) {
    const over = section.querySelector(".over");
    if (over) {
      const { warm, opacity, marks, large } = over.elements;
      const heat = section.querySelector(".heat");
      const drawn = section.querySelector(".marks");
      const draw = () => {
        if (heat) { heat.hidden = !warm.checked; heat.style.opacity = opacity.value / 100; }
        if (drawn) drawn.dataset.shown = marks.value;
      };
      over.addEventListener("submit", (event) => event.preventDefault());
      over.addEventListener("input", () => {
        draw();
        kept(lasting, "milscope over", { warm: warm?.checked ?? true, opacity: opacity?.value ?? 85, marks: marks?.value ?? "few" });
      });
      large.addEventListener("click", () => {
        const on = section.classList.toggle("large");
        large.setAttribute("aria-pressed", on);
      });
      const before = kept(lasting, "milscope over");
      if (before && warm) { warm.checked = before.warm; opacity.value = before.opacity; }
      if (before && marks && [...marks.options].some(({ value }) => value === before.marks)) marks.value = before.marks;
      over.hidden = false;
      draw();
    }

    const list = section.querySelector(".cells.ranked");
    if (!list) continue;
    const sizes = section.querySelector("form.size");
    const { scale } = sizes.elements;
    const name = `milscope ${scale.dataset.unit ?? "pixel"}`;
    const resize = () => {
      const value = Number(scale.value);
      for (const each of section.querySelectorAll(".cells")) each.style.setProperty("--px", value);
      sizes.querySelector("output").textContent = scale.dataset.unit ? `1 µm = ${value} px` : `${value} px`;
    };
    const before = kept(lasting, name);
    if (before) scale.value = before;
    sizes.addEventListener("submit", (event) => event.preventDefault());
    scale.addEventListener("input", () => { resize(); kept(lasting, name, scale.value); });
    sizes.hidden = false;
    resize();

    const cells = [...list.querySelectorAll("button")];
    const lens = section.querySelector(".lens");
    const light = (rank, on) => {
      for (const each of section.querySelectorAll(`[data-r="${rank}"]`)) each.classList.toggle("on", on);
      const mark = on && section.querySelector(`circle[data-r="${rank}"]`);
      if (mark) mark.parentNode.append(mark);
    };
    let chosen = null;
    const look = (cell) => {
      if (chosen) { light(chosen.dataset.r, false); chosen.tabIndex = -1; chosen.removeAttribute("aria-pressed"); }
      chosen = cell;
      cell.tabIndex = 0;
      cell.setAttribute("aria-pressed", "true");
      light(cell.dataset.r, true);
      if (!lens) return;
      const picture = lens.querySelector("i");
      const style = getComputedStyle(cell);
      for (const each of "crwhadij") picture.style.setProperty(`--${each}`, style.getPropertyValue(`--${each}`));
      const longer = Math.max(...["--a", "--d"].map((side) => Number(style.getPropertyValue(side))));
      picture.style.setProperty("--px", 220 / longer);
      picture.style.backgroundImage = getComputedStyle(cell.querySelector("i")).backgroundImage;
      lens.querySelector("p").textContent = `Rank ${cell.dataset.r}, score ${cell.querySelector("span").textContent}: ${cell.title}`;
      lens.hidden = false;
    };
    cells.forEach((cell, place) => {
      cell.tabIndex = place ? -1 : 0;
      cell.addEventListener("click", () => look(cell));
      cell.addEventListener("pointerenter", () => light(cell.dataset.r, true));
      cell.addEventListener("pointerleave", () => { if (cell !== chosen) light(cell.dataset.r, false); });
    });
    const step = (by) => {
      const place = chosen ? Math.min(cells.length - 1, Math.max(0, cells.indexOf(chosen) + by)) : 0;
      cells[place].focus();
      look(cells[place]);
    };
    const row = () => {
      const top = cells[0].getBoundingClientRect().top;
      return Math.max(1, cells.findIndex((cell) => cell.getBoundingClientRect().top > top + 4));
    };
    list.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: () => -row() }[event.key];
      if (!by || typing(event)) return;
      event.preventDefault();
      step(typeof by === "function" ? by() : by);
    });
    section.addEventListener("click", (event) => {
      const mark = event.target.closest("circle");
      const cell = mark && list.querySelector(`[data-r="${mark.dataset.r}"]`);
      if (!cell) return;
      cell.scrollIntoView({ block: "nearest" });
      look(cell);
    });
    if (section.id === "task") {
      document.addEventListener("keydown", (event) => {
        if (typing(event) || event.defaultPrevented || event.target.closest("input")) return;
        if (event.key === "ArrowRight") { event.preventDefault(); step(chosen ? 1 : 0); }
        if (event.key === "ArrowLeft") { event.preventDefault(); step(-1); }
      });
    }
  }

  const flip = (selector, change) => {
    for (const control of document.querySelectorAll(selector)) {
      change(control);
      control.dispatchEvent(new Event("input", { bubbles: true }));
    }
  };
  const keys = {
    "[": () => document.querySelector("a[rel=prev]")?.click(),
    "]": () => document.querySelector("a[rel=next]")?.click(),
    h: () => flip("[name=warm]", (box) => { box.checked = !box.checked; }),
    m: () => flip("[name=marks]", (box) => { box.selectedIndex = (box.selectedIndex + 1) % box.options.length; }),
    "+": () => flip("[name=scale]", (range) => range.stepUp()),
    "-": () => flip("[name=scale]", (range) => range.stepDown()),
  };
  document.addEventListener("keydown", (event) => {
    if (typing(event) || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
})();
