/* The plots (Plotly), in the colours of the page. Without it the page still reads. */
(() => {
  "use strict";

  document.documentElement.classList.add("js");

  function paint(canvas) {
    const { data, layout } = JSON.parse(document.getElementById(canvas.dataset.figure).textContent);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const roles = { front: "soft", ranked: "accent", unranked: "soft", curve: "soft", worst: "accent" };
    for (const trace of data) {
      const own = colour(roles[trace.meta]);
      const drawn = trace.meta === "curve" || trace.meta === "worst";
      trace.line = Object.assign({}, trace.line, { color: drawn ? own : colour("rule") });
      trace.marker = Object.assign({}, trace.marker, { color: own });
      if (trace.error_y) trace.error_y.color = own;
      trace.textfont = { color: colour("ink"), size: canvas.clientWidth < 480 ? 10 : 12 };
    }
    for (const shape of layout.shapes || []) shape.line.color = colour("soft");
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis, { gridcolor: colour("line"), linecolor: colour("rule"), tickcolor: colour("rule") });
    }
    Object.assign(layout, {
      font: { color: colour("soft"), family: style.fontFamily, size: 12 },
      hoverlabel: { bgcolor: colour("paper"), bordercolor: colour("rule"), font: { color: colour("ink") } },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
    });
    return Plotly.react(canvas, data, layout, { displayModeBar: false, responsive: true });
  }

  /* Points of rows that the filters hide stay in place, faint, so that the scale does not jump. */
  function fade(canvas, pages) {
    (canvas.data || []).forEach((trace, index) => {
      if (!trace.customdata) return;
      const shown = trace.customdata.map((page) => pages.has(page));
      const style = { "marker.opacity": [shown.map((yes) => (yes ? 1 : 0.15))] };
      const ink = trace.textfont.color;
      style["textfont.color"] = [shown.map((yes) => (yes ? (Array.isArray(ink) ? canvas.dataset.ink : ink) : "rgba(0,0,0,0)"))];
      canvas.dataset.ink = canvas.dataset.ink || ink;
      Plotly.restyle(canvas, style, [index]);
    });
  }

  const canvases = Array.from(document.querySelectorAll(".canvas[data-figure]"));
  for (const canvas of canvases) {
    const section = canvas.closest("section.board");
    if (section) section.addEventListener("narrowed", (event) => fade(canvas, event.detail));
    paint(canvas).then(() => {
      canvas.on("plotly_click", (event) => {
        const page = event.points[0] && event.points[0].customdata;
        if (page) location.href = page;
      });
    });
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => canvases.forEach(paint));
})();
