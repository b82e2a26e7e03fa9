/* Narrows a comparison down to two to five entries. Without it all entries are there. */
(function () {
  "use strict";

  document.documentElement.classList.add("js");
  const boxes = Array.from(document.querySelectorAll("#chosen input[type=checkbox]"));
  const body = document.querySelector("#overlap tbody");
  const patterns = JSON.parse(document.getElementById("overlap").dataset.patterns);
  const all = Array.from(body.rows);
  const about = document.getElementById("overlap-about");
  const text = about.textContent;
  const letter = (at) => String.fromCharCode(65 + at);
  const most = Number(document.getElementById("overlap").dataset.most);

  function lines(chosen) {
    const counts = new Map();
    for (const [bits, count] of patterns) {
      const key = chosen.filter((at) => bits & (1 << at)).map(letter).join(" ");
      if (key) counts.set(key, (counts.get(key) || 0) + count);
    }
    return Array.from(counts).sort((a, b) => a[0].length - b[0].length || (a[0] < b[0] ? -1 : 1));
  }

  function row(names, count, largest) {
    const line = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = names.includes(" ") ? names : `${names} alone`;
    const number = document.createElement("td");
    number.className = "number";
    number.textContent = count.toLocaleString("en");
    const cell = document.createElement("td");
    cell.className = "bar";
    const space = "http://www.w3.org/2000/svg";
    const picture = document.createElementNS(space, "svg");
    const bar = document.createElementNS(space, "rect");
    picture.setAttribute("viewBox", "0 0 100 10");
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("aria-hidden", "true");
    for (const [name, value] of [["x", 0], ["y", 1], ["width", (100 * count) / largest], ["height", 8]]) bar.setAttribute(name, value);
    picture.append(bar);
    cell.append(picture);
    line.append(head, number, cell);
    return line;
  }

  function narrow() {
    const chosen = boxes.filter((box) => box.checked).map((box) => Number(box.value));
    const few = chosen.length >= 2;
    const seen = (at) => !few || chosen.includes(Number(at));
    for (const box of boxes) box.disabled = chosen.length >= most && !box.checked;
    for (const cell of document.querySelectorAll(".matrix [data-entry]")) cell.hidden = !seen(cell.dataset.entry);
    for (const line of document.querySelectorAll("#pairs tr[data-pair]")) line.hidden = !line.dataset.pair.split(" ").every(seen);
    const found = few ? lines(chosen) : [];
    const largest = Math.max(1, ...found.map(([, count]) => count));
    body.replaceChildren(...(few ? found.map(([names, count]) => row(names, count, largest)) : all));
    about.textContent = few ? "Samples that exactly these of the chosen entries lose to an attack; what an entry gets wrong without one is left out." : text;
    document.getElementById("said").textContent = few ? `${chosen.map(letter).join(", ")} chosen.` : "";
    history.replaceState(null, "", few ? `#${chosen.map(letter).join("")}` : location.pathname + location.search);
  }

  for (const name of location.hash.slice(1)) {
    const box = boxes[name.charCodeAt(0) - 65];
    if (box && boxes.filter((each) => each.checked).length < most) box.checked = true;
  }
  for (const box of boxes) box.addEventListener("change", narrow);
  document.getElementById("all").addEventListener("click", () => {
    for (const box of boxes) box.checked = false;
    narrow();
  });
  narrow();
})();
