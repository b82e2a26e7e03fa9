/* Sorting, searching and narrowing of the tables. Without it the page still reads. */
(() => {
  "use strict";

  document.documentElement.classList.add("js"); // shows what needs the script, before anything is measured
  const form = document.getElementById("filters");
  const search = document.getElementById("search");
  const facets = Array.from(form.querySelectorAll("select[data-facet]"));
  const boards = Array.from(document.querySelectorAll("section.board"), (section) => {
    const table = section.querySelector("table.ranking");
    const rows = Array.from(table.tBodies[0].rows, (row) => ({ row, text: row.textContent.toLowerCase() }));
    sortable(table, rows);
    return { section, rows };
  });

  /* Give the heads buttons; the same head again turns the order round. Equal rows keep the order of the page. */
  function sortable(table, rows) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      const keys = rows.map(({ row }) => row.cells[column].dataset.order);
      const numbers = keys.every((key) => key !== "" && isFinite(key));
      const compare = numbers ? (a, b) => keys[a] - keys[b] : (a, b) => keys[a].localeCompare(keys[b], "en");
      head.addEventListener("click", () => {
        const first = head.dataset.first === "asc" ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const places = rows.map((_, place) => place).sort((a, b) => sign * compare(a, b));
        table.tBodies[0].append(...places.map((place) => rows[place].row));
      });
    });
  }

  function narrow() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = ({ row, text }) =>
      words.every((word) => text.includes(word)) &&
      facets.every((facet) => facet.value === "" || row.dataset[facet.dataset.facet] === facet.value);
    let shown = 0;
    let all = 0;
    for (const { section, rows } of boards) {
      const left = rows.filter(fits);
      for (const { row } of rows) row.hidden = true;
      for (const { row } of left) row.hidden = false;
      section.hidden = left.length === 0;
      const entry = document.querySelector(`.contents li[data-board="${section.id}"]`);
      if (entry) entry.hidden = section.hidden;
      const pages = left.map(({ row }) => row.querySelector("a").getAttribute("href"));
      section.dispatchEvent(new CustomEvent("narrowed", { detail: new Set(pages) }));
      shown += left.length;
      all += rows.length;
    }
    const count = all === 1 ? "1 row" : `${all} rows`;
    document.getElementById("tally").textContent = shown === all ? count : `${shown} of ${count}`;
    document.getElementById("nothing").hidden = shown > 0;
    remember();
  }

  /* The address holds what was asked for, so that a view can be passed on. */
  function remember() {
    const state = new URLSearchParams();
    if (search.value) state.set("search", search.value);
    for (const facet of facets) if (facet.value) state.set(facet.dataset.facet, facet.value);
    const text = state.toString();
    if (text) history.replaceState(null, "", `#?${text}`);
    else if (location.hash.startsWith("#?")) history.replaceState(null, "", location.pathname + location.search);
  }

  function recall() {
    if (!location.hash.startsWith("#?")) return;
    const state = new URLSearchParams(location.hash.slice(2));
    search.value = state.get("search") || "";
    for (const facet of facets) {
      const value = state.get(facet.dataset.facet) || "";
      if (Array.from(facet.options).some((option) => option.value === value)) facet.value = value;
    }
  }

  form.addEventListener("input", narrow);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(narrow));
  recall();
  narrow();
})();
