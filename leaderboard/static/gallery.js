/* Narrows the examples of an entry. Without it all of them are there. */
(function () {
  "use strict";

  document.documentElement.classList.add("js");
  const form = document.getElementById("narrow");
  const items = Array.from(document.querySelectorAll(".examples > li"));
  const facets = Array.from(form.querySelectorAll("select[data-narrow]"));
  const slider = document.getElementById("distance");
  const distances = items.map((item) => Number(item.dataset.distance)).sort((a, b) => a - b);

  function limit() {
    const share = Number(slider.value) / 100;
    return distances[Math.round(share * (distances.length - 1))];
  }

  function narrow() {
    const most = limit();
    let shown = 0;
    for (const item of items) {
      const fits = facets.every((facet) => facet.value === "" || item.dataset[facet.dataset.narrow] === facet.value);
      item.hidden = !(fits && Number(item.dataset.distance) <= most);
      shown += item.hidden ? 0 : 1;
    }
    document.getElementById("reach").textContent = String(Number(most.toPrecision(4)));
    document.getElementById("shown").textContent = `${shown} of ${items.length}`;
    document.getElementById("none-shown").hidden = shown > 0;
  }

  form.addEventListener("input", narrow);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(narrow));
  narrow();
})();
