/* The plots: what is under the pointer, and zoom. They are drawn without it, and all coordinates are read from them. */
(() => {
  "use strict";

  document.documentElement.classList.add("js");
  const MOST_TICKS = 6;

  function draw(parent, name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return parent.appendChild(node);
  }

  /* Points of a path that consists of M, L, H and V. */
  function points(path) {
    let at = [0, 0];
    return Array.from(path.matchAll(/([MLHV])(-?[\d.]+)(?: (-?[\d.]+))?/g), ([, letter, first, second]) => {
      if (letter === "H") at = [+first, at[1]];
      else if (letter === "V") at = [at[0], +first];
      else at = [+first, +second];
      return { letter: letter === "M" ? "M" : "L", x: at[0], y: at[1] };
    });
  }

  function ticks(low, high, log) {
    const least = (high - low) / MOST_TICKS;
    const scale = 10 ** Math.floor(Math.log10(least));
    let step = [1, 2, 2.5, 5, 10].map((beat) => beat * scale).find((width) => width >= least * (1 - 1e-9));
    if (log) step = Math.max(1, Math.round(least));
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n <= high / step + 1e-9; n++) {
      found.push([n * step, log ? (10 ** (n * step)).toLocaleString("en") : String(+(n * step).toPrecision(6))]);
    }
    return found;
  }

  class Plot {
    constructor(canvas) {
      this.canvas = canvas;
      this.svg = canvas.querySelector("svg");
      const { x, y, box, units } = this.svg.dataset;
      [this.left, this.top, this.right, this.bottom] = box.split(" ").map(Number);
      [this.unitX, this.unitY] = units.split("|");
      this.log = x.endsWith("log");
      this.whole = [...x.split(" ").slice(0, 2), ...y.split(" ")].map(Number);
      this.seen = this.whole.slice();
      this.paths = Array.from(this.svg.querySelectorAll(".data > path"), (node) => ({ node, points: points(node.getAttribute("d")) }));
      this.marks = Array.from(this.svg.querySelectorAll(".mark"), (node) => {
        const [, x, y] = node.getAttribute("transform").match(/\(([-\d.]+) ([-\d.]+)/).map(Number);
        const bar = node.querySelector("path");
        const said = node.querySelector("title");
        node.dataset.said = said.textContent;
        said.remove();
        return { node, x, y, bar, ends: bar ? points(bar.getAttribute("d")).map((end) => end.y) : [] };
      });
      this.lines = this.paths.filter(({ node }) => node.dataset.name !== undefined);
      for (const { node } of this.lines) node.querySelector("title").remove();
      this.tip = canvas.appendChild(document.createElement("p"));
      this.tip.className = "tip";
      this.tip.hidden = true;
      this.guide = draw(this.svg, "path", { class: "guide" });
      this.area = draw(this.svg, "rect", { class: "area" });
      this.buttons();
      this.svg.addEventListener("pointermove", (event) => this.point(event));
      this.svg.addEventListener("pointerleave", () => this.hush());
      this.svg.addEventListener("pointerdown", (event) => this.begin(event));
      this.svg.addEventListener("pointerup", (event) => this.end(event));
      this.svg.addEventListener("dragstart", (event) => event.preventDefault());
      this.svg.addEventListener("click", (event) => { if (this.dragged) event.preventDefault(); this.dragged = false; }, true);
      this.svg.addEventListener("dblclick", () => this.look(this.whole));
    }

    buttons() {
      const bar = this.canvas.appendChild(document.createElement("p"));
      bar.className = "zoom";
      for (const [sign, name, factor] of [["+", "Zoom in", 0.5], ["−", "Zoom out", 2]]) {
        const button = bar.appendChild(document.createElement("button"));
        Object.assign(button, { type: "button", textContent: sign, title: name });
        button.setAttribute("aria-label", name);
        button.addEventListener("click", () => this.scale(factor));
      }
    }

    scale(factor) {
      const next = [];
      for (const [low, high] of [this.seen.slice(0, 2), this.seen.slice(2)]) {
        next.push((low + high) / 2 - (factor * (high - low)) / 2, (low + high) / 2 + (factor * (high - low)) / 2);
      }
      this.look(next);
    }

    /* Show these ends of both axes, never beyond the whole. */
    look(ends) {
      const [a, b, c, d] = this.whole;
      const inside = (low, high, first, last) => {
        const size = Math.min(Math.max(high - low, (last - first) / 500), last - first);
        const from = Math.min(Math.max(low, first), last - size);
        return [from, from + size];
      };
      this.seen = [...inside(ends[0], ends[1], a, b), ...inside(ends[2], ends[3], c, d)];
      this.redraw();
    }

    /* From the picture of the whole to what is seen of it. */
    across(x) {
      const [low, high] = this.whole;
      const value = low + ((x - this.left) / (this.right - this.left)) * (high - low);
      return this.left + ((value - this.seen[0]) / (this.seen[1] - this.seen[0])) * (this.right - this.left);
    }

    up(y) {
      const [, , low, high] = this.whole;
      const value = low + ((this.bottom - y) / (this.bottom - this.top)) * (high - low);
      return this.bottom - ((value - this.seen[2]) / (this.seen[3] - this.seen[2])) * (this.bottom - this.top);
    }

    redraw() {
      const short = (value) => +value.toFixed(2);
      for (const { node, points } of this.paths) {
        node.setAttribute("d", points.map(({ letter, x, y }) => `${letter}${short(this.across(x))} ${short(this.up(y))}`).join(""));
      }
      const stretch = (this.whole[3] - this.whole[2]) / (this.seen[3] - this.seen[2]);
      for (const { node, x, y, bar, ends } of this.marks) {
        node.setAttribute("transform", `translate(${short(this.across(x))} ${short(this.up(y))})`);
        if (bar) bar.setAttribute("d", `M0 ${short(ends[0] * stretch)}V${short(ends[1] * stretch)}`);
      }
      const group = this.svg.querySelector(".ticks");
      group.replaceChildren();
      const [a, b, c, d] = this.seen;
      for (const [value, text] of ticks(c, d, false)) {
        if (this.unitY && (value < 0 || value > 100)) continue;
        const y = this.bottom - ((value - c) / (d - c)) * (this.bottom - this.top);
        draw(group, "path", { class: "grid", d: `M${this.left} ${y}H${this.right}` });
        draw(group, "text", { x: this.left - 7, y, dy: 4, "text-anchor": "end" }, text + this.unitY);
      }
      for (const [value, text] of ticks(a, b, this.log)) {
        if (this.unitX && (value < 0 || value > 100)) continue;
        const x = this.left + ((value - a) / (b - a)) * (this.right - this.left);
        draw(group, "path", { class: "tick", d: `M${x} ${this.bottom}v5` });
        draw(group, "text", { x, y: this.bottom + 19, "text-anchor": "middle" }, text + this.unitX);
      }
      this.hush();
    }

    place(event) {
      const seen = this.svg.getBoundingClientRect();
      const factor = this.svg.viewBox.baseVal.width / seen.width;
      return [(event.clientX - seen.left) * factor, (event.clientY - seen.top) * factor];
    }

    inside([x, y]) {
      return x >= this.left && x <= this.right && y >= this.top && y <= this.bottom;
    }

    point(event) {
      const at = this.place(event);
      if (this.from) return this.stretchTo(at);
      const mark = event.target.closest(".mark");
      if (mark) return this.say(mark.dataset.said.split("\n"), at);
      if (!this.lines.length || this.marks.length || !this.inside(at)) return this.hush();
      const share = (at[0] - this.left) / (this.right - this.left);
      const value = this.seen[0] + share * (this.seen[1] - this.seen[0]);
      const said = [`${this.svg.querySelector(".title").textContent} ${+(this.log ? 10 ** value : value).toPrecision(3)}${this.unitX}`];
      for (const { node, points } of this.lines) {
        const y = this.height(points, at[0], "stepped" in node.dataset);
        if (y !== null) said.push(`${node.dataset.name}: ${y.toFixed(1)}${this.unitY}`);
      }
      this.guide.setAttribute("d", `M${at[0]} ${this.top}V${this.bottom}`);
      this.say(said, at);
    }

    /* The value of a line at a place of the picture. */
    height(points, x, stepped) {
      const after = points.findIndex((each) => this.across(each.x) > x);
      if (after === 0) return null;
      const last = after < 0 ? points.length - 1 : after - 1;
      if (after < 0 && x > this.across(points[last].x) + 2) return null;
      let { y } = points[last];
      if (!stepped && after > 0) {
        const [a, b] = [this.across(points[last].x), this.across(points[after].x)];
        y += ((x - a) / (b - a)) * (points[after].y - y);
      }
      return this.whole[2] + ((this.bottom - y) / (this.bottom - this.top)) * (this.whole[3] - this.whole[2]);
    }

    say(lines, [x, y]) {
      const width = this.svg.viewBox.baseVal.width;
      const scale = this.svg.getBoundingClientRect().width / width;
      this.tip.replaceChildren(...lines.flatMap((line, index) => (index ? [document.createElement("br"), line] : [line])));
      this.tip.hidden = false;
      const left = x * scale + 14;
      const room = this.canvas.clientWidth - this.tip.offsetWidth;
      this.tip.style.left = `${Math.max(0, left > room ? x * scale - this.tip.offsetWidth - 14 : left)}px`;
      this.tip.style.top = `${Math.max(0, y * scale - this.tip.offsetHeight / 2)}px`;
    }

    hush() {
      this.tip.hidden = true;
      this.guide.removeAttribute("d");
      if (this.from) this.stretchTo(null);
    }

    begin(event) {
      const at = this.place(event);
      if (event.pointerType === "mouse" && event.button === 0 && this.inside(at)) this.from = at;
    }

    stretchTo(at) {
      if (at === null) {
        this.from = null;
        this.area.removeAttribute("width");
        return;
      }
      const to = [Math.min(Math.max(at[0], this.left), this.right), Math.min(Math.max(at[1], this.top), this.bottom)];
      const [x, y] = [0, 1].map((axis) => Math.min(this.from[axis], to[axis]));
      const [width, height] = [0, 1].map((axis) => Math.abs(this.from[axis] - to[axis]));
      for (const [key, value] of Object.entries({ x, y, width, height })) this.area.setAttribute(key, value);
      this.drawn = { x, y, width, height };
    }

    end() {
      const { from, drawn } = this;
      this.stretchTo(null);
      this.drawn = undefined;
      if (!from || !drawn || drawn.width < 8 || drawn.height < 8) return;
      this.dragged = true; // the click that follows leads nowhere
      const [a, b, c, d] = this.seen;
      const x = (place) => a + ((place - this.left) / (this.right - this.left)) * (b - a);
      const y = (place) => c + ((this.bottom - place) / (this.bottom - this.top)) * (d - c);
      this.look([x(drawn.x), x(drawn.x + drawn.width), y(drawn.y + drawn.height), y(drawn.y)]);
    }
  }

  for (const canvas of document.querySelectorAll(".canvas")) {
    const plot = new Plot(canvas);
    const section = canvas.closest("section.board");
    if (!section) continue;
    /* Points of rows that the filters hide stay in place, faint, so that the scale does not jump. */
    section.addEventListener("narrowed", (event) => {
      for (const { node } of plot.marks) node.classList.toggle("faint", !event.detail.has(node.getAttribute("href")));
    });
  }
})();
