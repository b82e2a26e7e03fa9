/* Sorting, searching and narrowing of the tables (DataTables). Without it the page still reads. */
(function () {
  "use strict";

  document.documentElement.classList.add("js"); // shows what needs the script, before anything is measured
  const form = document.getElementById("filters");
  const search = document.getElementById("search");
  const facets = Array.from(form.querySelectorAll("select[data-facet]"));
  const boards = Array.from(document.querySelectorAll("section.board")).map((section) => {
    const table = section.querySelector("table.ranking");
    return { section, rows: table.tBodies[0].rows.length, view: tabulate(table) };
  });

  function tabulate(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    return new DataTable(table, {
      autoWidth: false,
      info: false,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      order: [],
      paging: false,
      columnDefs: heads.map((head, index) => ({
        targets: index,
        orderSequence: head.dataset.first === "asc" ? ["asc", "desc"] : ["desc", "asc"],
      })),
    });
  }

  function wanted(row) {
    return facets.every((facet) => facet.value === "" || row.dataset[facet.dataset.facet] === facet.value);
  }

  function narrow() {
    let shown = 0;
    let all = 0;
    for (const { section, rows, view } of boards) {
      view.search.fixed("facets", (text, data, index) => wanted(view.row(index).node()));
      view.search(search.value).draw();
      const left = view.rows({ search: "applied" }).count();
      section.hidden = left === 0;
      const entry = document.querySelector(`.contents li[data-board="${section.id}"]`);
      if (entry) entry.hidden = left === 0;
      const pages = view.rows({ search: "applied" }).nodes().toArray().map((row) => row.querySelector("a").getAttribute("href"));
      section.dispatchEvent(new CustomEvent("narrowed", { detail: new Set(pages) }));
      shown += left;
      all += rows;
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
