// Labels by number: the ones that a key gives, and a list to choose any other from, or a new one.

import { colourOf } from "./colours.js";
import { fill, h } from "./dom.js";

const NUMBERED = 9;

export class Palette {
  /** `onPick(label)`: one was clicked on; the first nine labels stay where they are from one visit to the next. */
  constructor(element, onPick) {
    Object.assign(this, { element, onPick });
    this._name = "";
    this.labels = [];
    this.last = "";
  }

  /** `counts`: label -> how many, the most frequent first; of the store of this name. */
  take(counts, name) {
    this._name = `florence2.labels.${name}`;
    const known = Object.keys(counts), kept = stored(this._name).filter((label) => known.includes(label));
    this.labels = [...kept, ...known.filter((label) => !kept.includes(label))];
    store(this._name, this.labels.slice(0, NUMBERED));
    this.labels.forEach(colourOf); // numbered in this order
    this.draw();
  }

  /** A label that was used; a new one joins. */
  used(label) {
    this.last = label;
    if (label && !this.labels.includes(label)) {
      this.labels.push(label);
      store(this._name, this.labels.slice(0, NUMBERED));
      this.draw();
    }
  }

  /** The label of a key, "" where it has none. */
  numbered(key) { return /^[1-9]$/.test(key) ? this.labels[Number(key) - 1] ?? "" : ""; }

  draw() {
    fill(this.element, this.labels.slice(0, NUMBERED).map((label, n) => h("button", {
      type: "button", class: "label", title: `${label} (${n + 1})`, on: { click: () => this.onPick(label) },
    }, h("kbd", {}, n + 1), swatch(label), h("span", { class: "name" }, label))),
    h("button", { type: "button", class: "label other", title: "Any other label (L)", on: { click: () => this.onPick(null) } }, h("kbd", {}, "L"), h("span", { class: "name" }, this.labels.length > NUMBERED ? `${this.labels.length - NUMBERED} more…` : "other…")));
  }

  /** Let one be chosen: the best match of what is typed by Enter, another by its number; the label, or null. */
  choose(dialog, title, first = "") {
    return new Promise((resolve) => {
      let matches = [];
      const list = h("ol", { class: "matches", role: "listbox", id: "matches" });
      const input = h("input", {
        type: "text", id: "label-input", value: first, autocomplete: "off", spellcheck: "false", maxlength: 500,
        role: "combobox", "aria-controls": "matches", "aria-expanded": "true", "aria-label": title,
        on: { input: () => draw(), keydown: (event) => key(event) },
      });
      let at = 0;
      const draw = () => {
        const typed = input.value.trim().toLowerCase();
        const fits = (label) => label.toLowerCase().startsWith(typed) * 2 + label.toLowerCase().includes(typed);
        matches = this.labels.filter((label) => fits(label)).sort((a, b) => fits(b) - fits(a));
        const exact = matches.some((label) => label.toLowerCase() === typed);
        if (typed && !exact) matches.push(input.value.trim());
        at = Math.min(at, Math.max(0, matches.length - 1));
        fill(list, matches.slice(0, 200).map((label, n) => h("li", {
          role: "option", id: `match-${n}`, "aria-selected": String(n === at), class: n === at ? "current" : "",
          on: { pointerdown: (event) => { event.preventDefault(); done(label); } },
        }, n < 9 ? h("kbd", {}, n + 1) : h("span", { class: "nokey" }), swatch(label), h("span", { class: "name" }, label),
        !this.labels.includes(label) && h("span", { class: "soft small" }, "new label"))));
        input.setAttribute("aria-activedescendant", `match-${at}`);
        list.querySelector(".current")?.scrollIntoView({ block: "nearest" });
      };
      const key = (event) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (step) {
          event.preventDefault();
          at = (at + step + matches.length) % Math.max(1, matches.length);
          draw();
        } else if (event.key === "Enter") {
          event.preventDefault();
          if (matches[at]) done(matches[at]);
        } else if (/^[1-9]$/.test(event.key) && matches[Number(event.key) - 1] && !this.labels.some((label) => label.toLowerCase().startsWith((input.value + event.key).toLowerCase()))) {
          event.preventDefault();
          done(matches[Number(event.key) - 1]);
        }
      };
      let chosen = null;
      const done = (label) => { chosen = label; dialog.close(); };
      fill(dialog, h("h2", { id: "dialog-heading" }, title), input, list,
        h("p", { class: "small soft" }, "Type to narrow; Enter takes the marked one, 1 to 9 the others; Esc leaves it."));
      dialog.addEventListener("close", () => resolve(chosen), { once: true });
      draw();
      dialog.showModal();
      input.focus();
      input.select();
    });
  }
}

export function swatch(label) {
  const out = h("span", { class: "swatch", "aria-hidden": "true" });
  out.style.background = colourOf(label);
  return out;
}

function stored(name) {
  try { return JSON.parse(localStorage.getItem(name) ?? "[]").filter((label) => typeof label === "string"); } catch { return []; }
}

function store(name, labels) {
  try { localStorage.setItem(name, JSON.stringify(labels)); } catch { /* private mode */ }
}
