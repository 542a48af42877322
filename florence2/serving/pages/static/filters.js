// What is filtered by: facets with their counts, bounds of the score. Values of one facet are alternatives.

import { ask } from "./api.js";
import { fill, h } from "./dom.js";

const FACETS = [
  ["review", "Review"], ["status", "Status"], ["label", "Label"], ["source", "Source"], ["reason", "Reason"],
  ["round", "Round"], ["split", "Split"], ["picture", "Picture"],
];
const WORDS = { open: "nobody has looked", touched: "judged in part", complete: "complete" };
const SHOWN = 12; // values of a facet, before one asks for more

export class Filters {
  constructor(element, onChange) {
    Object.assign(this, { element, onChange });
    this.chosen = Object.fromEntries(FACETS.map(([name]) => [name, new Set()]));
    this.least = this.most = null;
    this.open = new Set(["review", "status", "label", "source"]);
    this.all = new Set(); // facets of which all values are shown
    this.counts = null;
    element.addEventListener("submit", (event) => event.preventDefault());
  }

  /** Take what an address says. */
  read(query) {
    for (const [name] of FACETS) {
      this.chosen[name] = new Set(query.getAll(name));
      if (this.chosen[name].size) this.open.add(name);
    }
    this.least = query.get("min_score");
    this.most = query.get("max_score");
  }

  get query() {
    const out = new URLSearchParams();
    for (const [name] of FACETS) for (const value of this.chosen[name]) out.append(name, value);
    if (this.least) out.set("min_score", this.least);
    if (this.most) out.set("max_score", this.most);
    return out;
  }

  /** Ask for the counts under what is chosen, and show them. */
  async load() {
    const own = this._own = {};
    const counts = await ask(`/v1/store/facets?${this.query}`);
    if (own !== this._own) return;
    this.counts = counts;
    this.draw();
  }

  draw() {
    const focused = document.activeElement?.closest?.(".filters") && document.activeElement.id;
    const any = [...this.query].length > 0;
    fill(this.element,
      h("div", { class: "row head" }, h("h2", {}, "Filter"),
        h("button", { type: "button", class: "quiet small end", id: "clear", disabled: !any, on: { click: () => this.clear() } }, "Clear")),
      FACETS.filter(([name]) => Object.keys(this.counts[name]).length || this.chosen[name].size).map((facet) => this._facet(facet)),
      this._scores());
    if (focused) document.getElementById(focused)?.focus();
  }

  clear() {
    for (const [name] of FACETS) this.chosen[name].clear();
    this.least = this.most = null;
    this.onChange();
  }

  _facet([name, title]) {
    const chosen = this.chosen[name], counts = this.counts[name];
    const missing = [...chosen].filter((value) => !(value in counts)).map((value) => [value, 0]);
    let values = [...missing, ...Object.entries(counts)];
    const hidden = this.all.has(name) ? 0 : Math.max(0, values.length - SHOWN);
    if (hidden) values = values.filter(([value], n) => n < SHOWN || chosen.has(value));
    const details = h("details", { open: this.open.has(name), on: { toggle: () => { details.open ? this.open.add(name) : this.open.delete(name); } } },
      h("summary", {}, title, chosen.size > 0 && h("span", { class: "count" }, chosen.size)),
      h("ul", { class: "values" }, values.map(([value, count], n) => this._value(name, value, count, n))),
      hidden > 0 && h("button", { type: "button", class: "quiet small", on: { click: () => { this.all.add(name); this.draw(); } } }, `${hidden} more`));
    return details;
  }

  _value(name, value, count, n) {
    const input = h("input", {
      type: "checkbox", id: `facet-${name}-${n}`, checked: this.chosen[name].has(value),
      on: { change: () => { input.checked ? this.chosen[name].add(value) : this.chosen[name].delete(value); this.onChange(); } },
    });
    const words = name === "review" ? WORDS[value] ?? value : value;
    return h("li", {}, h("label", { for: input.id }, input, h("span", { class: "value" }, words)), h("span", { class: "soft number" }, count.toLocaleString("en")));
  }

  _scores() {
    const field = (name, title) => h("label", { class: "small" }, title, h("input", {
      type: "number", min: 0, max: 1, step: 0.05, value: this[name] ?? "", id: `score-${name}`, "aria-label": `Score ${title}`,
      on: { change: (event) => { if (event.target.checkValidity()) { this[name] = event.target.value || null; this.onChange(); } } },
    }));
    return h("fieldset", { class: "row scores" }, h("legend", { class: "small" }, "Score"), field("least", "from"), field("most", "to"));
  }
}
