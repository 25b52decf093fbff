"use strict";

// The theme, saved in local storage if the browser allows it for files.
{
  const chooser = document.getElementById("theme");
  chooser.value = document.documentElement.dataset.theme || "system";
  chooser.addEventListener("change", () => {
    document.documentElement.dataset.theme = chooser.value;
    try { localStorage.setItem("cyclesep-theme", chooser.value); } catch { /* no storage */ }
  });
}

// Tables: a click on a heading sorts, numbers in descending order first; rows without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  };
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const first = heading.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column), sign));
      body.append(...rows);
    });
  });
}

// A select with data-shows="ID" shows the children of that element whose data-filter equals its value.
for (const select of document.querySelectorAll("select[data-shows]")) {
  const container = document.getElementById(select.dataset.shows);
  const show = () => {
    for (const part of container.querySelectorAll("[data-filter]")) part.hidden = part.dataset.filter !== select.value;
  };
  select.addEventListener("change", show);
  show();
}

// Figures: a tooltip for the point nearest to the pointer, or the focused one; arrow keys move the focus.
{
  const tip = document.getElementById("tip");
  const NEAR = 28;
  let linked = [];
  const clear = () => {
    for (const mark of linked) mark.classList.remove("active", "linked");
    linked = [];
    tip.hidden = true;
  };
  const highlight = (mark) => {
    clear();
    const link = mark.dataset.link;
    linked = link ? [...document.querySelectorAll(".mark[data-link]")].filter((each) => each.dataset.link === link) : [mark];
    for (const each of linked) each.classList.add("linked");
    mark.classList.add("active");
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const at = mark.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(4, at.x + at.width / 2 - own.width / 2), document.documentElement.clientWidth - own.width - 4);
    const top = at.y - own.height - 8;
    tip.style.transform = `translate(${left}px, ${top < 4 ? at.y + at.height + 8 : top}px)`;
  };
  for (const figure of document.querySelectorAll("svg.marked")) {
    const marks = [...figure.querySelectorAll(".mark")];
    if (!marks.length) continue;
    const setTabStop = (mark) => { for (const each of marks) each.tabIndex = each === mark ? 0 : -1; };
    setTabStop(marks[0]);
    const centers = () => marks.map((mark) => mark.getBoundingClientRect()).map((at) => [at.x + at.width / 2, at.y + at.height / 2]);
    const nearest = (event) => {
      let best = null, closest = NEAR;
      centers().forEach(([x, y], index) => {
        const distance = Math.hypot(event.clientX - x, event.clientY - y);
        if (distance < closest) [best, closest] = [marks[index], distance];
      });
      if (best) highlight(best); else clear();
    };
    figure.addEventListener("pointermove", nearest);
    figure.addEventListener("pointerdown", nearest);
    figure.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") clear(); });
    figure.addEventListener("focusin", (event) => { if (event.target.matches(".mark")) { setTabStop(event.target); highlight(event.target); } });
    figure.addEventListener("focusout", clear);
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const index = marks.indexOf(document.activeElement);
      if (event.key === "Escape") clear();
      if (step === undefined || index < 0) return;
      event.preventDefault();
      marks[(index + step + marks.length) % marks.length].focus();
    });
  }
  addEventListener("scroll", clear, { passive: true });
}
