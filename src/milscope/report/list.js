"use strict";
// The lists of slides: filter, sort, and what a slide's page needs to walk through what is shown.
(() => {
  const kept = {
    get: (name) => { try { return JSON.parse(sessionStorage.getItem(name)); } catch { return null; } },
    set: (name, value) => { try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* a browser that keeps nothing */ } },
  };
  const here = location.pathname.replace(/[^/]*$/, "");
  for (const tools of document.querySelectorAll("form.tools")) {
    const section = tools.closest("section");
    const body = section.querySelector("tbody");
    const shown = tools.querySelector("output");
    const controls = ["find", "split", "label", "call"].map((name) => tools.elements[name]);
    const rows = [...body.rows].map((row) => {
      const link = row.cells[1].querySelector("a");
      return { row, link, words: row.textContent.toLowerCase(), ...row.dataset };
    });
    const own = `milscope ${here}${section.id}`;
    const keep = () => kept.set(own, controls.map((control) => control.value));
    const filter = () => {
      const [words, split, label, call] = controls.map((control) => control.value.trim().toLowerCase());
      const wrong = (one) => one.label !== "none" && one.call !== "none" && one.label !== one.call;
      let count = 0;
      for (const one of rows) {
        const fits = (split === "all" || one.part === split) && (label === "all" || one.label === label)
          && (call === "all" || (call === "wrong" ? wrong(one) : one.call === call)) && one.words.includes(words);
        one.row.hidden = !fits;
        count += fits;
      }
      shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} slides`;
    };
    const walk = () => kept.set(`milscope ${here}walk`,
      [...body.rows].filter((row) => !row.hidden).map((row) => row.cells[1].querySelector("a")?.getAttribute("href").match(/\d+/)[0])
        .filter(Boolean).map(Number));
    body.addEventListener("click", (event) => { if (event.target.closest("a")) walk(); });

    const heads = [...section.querySelectorAll("thead th")];
    const sort = (place, down) => {
      const number = heads[place].dataset.sort === "number";
      const value = (row) => {
        const cell = row.cells[place];
        return number ? Number(cell.dataset.value ?? cell.textContent) : cell.textContent.trim();
      };
      const sorted = rows.map(({ row }) => [value(row), row]).sort(([a], [b]) =>
        (number ? a - b : a.localeCompare(b, undefined, { numeric: true })) * (down ? -1 : 1));
      body.append(...sorted.map(([, row]) => row));
      for (const head of heads) head.removeAttribute("aria-sort");
      heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
    };
    heads.forEach((head, place) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        sort(place, before ? before === "ascending" : head.dataset.sort === "number" && place > 0);
      });
    });
    heads[0].setAttribute("aria-sort", "ascending");
    (kept.get(own) ?? []).forEach((value, place) => {
      const control = controls[place];
      if (!control.options || [...control.options].some((option) => option.value === value)) control.value = value;
    });
    tools.addEventListener("submit", (event) => event.preventDefault());
    for (const control of controls) control.addEventListener("input", () => { filter(); keep(); });
    tools.hidden = false;
    filter();
  }
  addEventListener("beforeprint", () => {
    for (const image of document.querySelectorAll("tr:not([hidden]) img[loading]")) image.loading = "eager";
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
