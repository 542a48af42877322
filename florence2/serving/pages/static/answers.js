// The answers: one tab a task, its items to toggle, a score below which nothing is shown, the raw tokens beside the parse.

import { line } from "./api.js";
import { colourOf } from "./colours.js";
import { announce, copy, fill, h } from "./dom.js";
import { boundsOf } from "./geometry.js";
import { SNIPPETS } from "./snippets.js";
import { tokenParts } from "./tokens.js";

export class Answers {
  /** `element`: where they are shown; `overlay`: the picture's regions; `live`: the live region of the page. */
  constructor(element, overlay, live) {
    Object.assign(this, { element, overlay, live });
    this.answers = [];
    this.asked = null;
    this.least = 0; // score
    this.at = 0;
    this.off = new Set(); // "answer label" that are toggled off
    this.offItems = new Set(); // "answer id"
  }

  /** Show what was answered to `asked` ({server, model, picture, asks, options}). */
  show(answers, asked) {
    Object.assign(this, { answers, asked, at: Math.min(this.at, answers.length - 1) });
    this.offItems.clear();
    this._frame();
    announce(this.live, answers.map((answer) => `${answer.task.replace(/[<>]/g, "")}: ${summary(answer)}`).join("; "));
  }

  clear(message) {
    this.answers = [];
    this.overlay.show([]);
    fill(this.element, h("p", { class: "soft" }, message));
  }

  get answer() { return this.answers[this.at]; }

  /** What is drawn and listed of the shown answer: regions with the name that they go by. */
  get items() {
    const phrases = new Map(this.answer.groundings.flatMap((one) => one.region_ids?.map((id) => [id, one.phrase]) ?? []));
    return this.answer.regions.map((region) => ({
      ...region, label: region.label || region.description || phrases.get(region.id) || "",
    }));
  }

  isShown(item) {
    return !(typeof item.score === "number" && item.score < this.least)
      && !this.off.has(`${this.at} ${item.label}`) && !this.offItems.has(`${this.at} ${item.id}`);
  }

  pointed(id) {
    this.overlay.hover(id);
    for (const one of this.element.querySelectorAll("[data-item]")) one.classList.toggle("pointed", one.dataset.item === id);
  }

  chosen(id) {
    this.overlay.select(id);
    if (id) this.overlay.reveal(id);
    for (const one of this.element.querySelectorAll("[data-item]")) one.classList.toggle("chosen", one.dataset.item === id);
    const row = id && this.element.querySelector(`li[data-item="${CSS.escape(id)}"]`);
    row?.scrollIntoView({ block: "nearest" });
  }

  // ---- the frame: tabs, the slider, what can be copied ----

  _frame() {
    const tabs = this.answers.map((answer, n) => h("button", {
      type: "button", role: "tab", id: `tab-${n}`, "aria-controls": "panel", class: "tab",
      on: { click: () => this._turn(n), keydown: (event) => this._tabKey(event) },
    }, answer.task.replace(/[<>]/g, ""), h("span", { class: "count" }, summary(answer))));
    this.panel = h("div", { role: "tabpanel", id: "panel", tabindex: "-1" });
    const value = h("output", { for: "least" });
    const slider = h("input", {
      type: "range", id: "least", min: 0, max: 1, step: 0.01, value: this.least,
      on: { input: () => { this.least = slider.valueAsNumber; value.textContent = this.least.toFixed(2); this._filtered(); } },
    });
    value.textContent = this.least.toFixed(2);
    this.count = h("span", { class: "small soft", "aria-live": "polite" });
    fill(this.element,
      h("div", { role: "tablist", "aria-label": "Tasks", class: "tabs" }, tabs),
      h("div", { class: "row filter" }, h("label", { for: "least" }, "Score at least"), slider, value, this.count),
      this.panel, this._copies());
    this._turn(this.at);
  }

  _turn(at) {
    this.at = at;
    this.element.querySelectorAll("[role=tab]").forEach((tab, n) => {
      tab.setAttribute("aria-selected", String(n === at));
      tab.tabIndex = n === at ? 0 : -1;
    });
    this.panel.setAttribute("aria-labelledby", `tab-${at}`);
    fill(this.panel, this._parsed(), this._raw());
    this.overlay.select(null);
    this.overlay.show(this.items.map((item) => ({ ...item, colour: colourOf(item.label) })));
    this._filtered();
  }

  _tabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? this.answers.length - 1 : step && this.at + step;
    if (to === undefined || to < 0 || to >= this.answers.length) return;
    event.preventDefault();
    this._turn(to);
    this.element.querySelector(`#tab-${to}`).focus();
  }

  _filtered() {
    const items = this.items, shown = items.filter((item) => this.isShown(item));
    const names = new Set(shown.map((item) => item.id));
    this.overlay.hide(new Set(items.filter((item) => !names.has(item.id)).map((item) => item.id)));
    this.count.textContent = items.length ? `${shown.length} of ${items.length} shown` : "";
    for (const row of this.element.querySelectorAll("li[data-item]")) {
      row.classList.toggle("below", !names.has(row.dataset.item));
      row.querySelector("input").checked = names.has(row.dataset.item);
      row.querySelector("input").disabled = this._isBelow(items.find((item) => item.id === row.dataset.item));
    }
    for (const text of this.element.querySelectorAll("[data-text-score]")) {
      text.classList.toggle("below", Number(text.dataset.textScore) < this.least);
    }
    if (this.code) this._code();
  }

  _isBelow(item) {
    return (typeof item.score === "number" && item.score < this.least) || this.off.has(`${this.at} ${item.label}`);
  }

  // ---- one answer ----

  _parsed() {
    const { answer, items } = this;
    const empty = !items.length && !answer.texts.length;
    return h("section", { class: "parsed", "aria-label": "Parsed" }, h("h3", {}, "Parsed"),
      answer.truncated && h("p", { class: "error small" }, "Cut at the token limit: the answer may be longer. Raise max_new_tokens."),
      empty && h("p", { class: "soft" }, "Nothing was found."),
      answer.texts.map((text) => h("blockquote", { "data-text-score": text.score ?? 1 }, text.text, scoreOf(text))),
      items.length > 0 && this._labels(items),
      items.length > 0 && h("ul", { class: "items", "aria-label": "Regions" }, items.map((item, n) => this._row(item, n))),
      (answer.decisions ?? []).length > 0 && h("p", { class: "small soft" }, "Left out: ",
        answer.decisions.map((one) => `${one.item_id} (${one.rule}: ${one.reason})`).join(", ")));
  }

  _labels(items) {
    const counts = new Map();
    for (const item of items) counts.set(item.label, (counts.get(item.label) ?? 0) + 1);
    if (counts.size < 2) return null;
    return h("div", { class: "chips", role: "group", "aria-label": "Labels shown" }, [...counts].map(([label, count]) => {
      const key = `${this.at} ${label}`;
      const button = h("button", {
        type: "button", class: "toggle", "aria-pressed": String(!this.off.has(key)),
        on: { click: () => {
          this.off.has(key) ? this.off.delete(key) : this.off.add(key);
          button.setAttribute("aria-pressed", String(!this.off.has(key)));
          this._filtered();
        } },
      }, swatch(label), label || "no label", h("span", { class: "soft" }, ` ${count}`));
      return button;
    }));
  }

  _row(item, n) {
    const box = boundsOf(item)?.map((value) => Math.round(value)).join(", ") ?? "";
    const name = item.label || `region ${n + 1}`;
    const input = h("input", {
      type: "checkbox", checked: true, tabindex: n ? "-1" : "0", "aria-label": `${name}, ${words(item)}`,
      on: {
        change: () => {
          const key = `${this.at} ${item.id}`;
          input.checked ? this.offItems.delete(key) : this.offItems.add(key);
          this._filtered();
        },
        focus: () => this.pointed(item.id), blur: () => this.pointed(null), keydown: (event) => this._rowKey(event),
      },
    });
    return h("li", {
      "data-item": item.id,
      on: {
        pointerenter: () => this.pointed(item.id), pointerleave: () => this.pointed(null),
        click: (event) => { if (event.target !== input) this.chosen(this.overlay.selected === item.id ? null : item.id); },
      },
    }, input, swatch(item.label), h("span", { class: "name" }, name), h("span", { class: "score" }, scoreOf(item)),
    h("span", { class: "place mono soft", title: "x1, y1, x2, y2 in pixels" }, box));
  }

  _rowKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const inputs = [...this.element.querySelectorAll("li[data-item] input")].filter((one) => !one.disabled);
    const next = inputs[inputs.indexOf(event.target) + step];
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  _raw() {
    const { answer } = this;
    const parts = tokenParts(answer).map((part) => h("span", {
      class: part.special ? "special" : "word", "data-item": part.id,
      on: part.id ? { pointerenter: () => this.pointed(part.id), pointerleave: () => this.pointed(null), click: () => this.chosen(part.id) } : {},
    }, part.text));
    const rows = answer.token_ids.map((id, n) => h("tr", {}, h("td", {}, id), h("td", {}, number(answer.token_logprobs[n]))));
    return h("section", { class: "raw", "aria-label": "Raw tokens" }, h("h3", {}, "Raw tokens"),
      h("p", { class: "small soft" }, "Prompt: ", h("span", { class: "mono" }, answer.prompt)),
      h("pre", { class: "tokens" }, parts),
      h("details", {}, h("summary", { class: "small" }, `${answer.token_ids.length} token ids, log-probabilities`),
        h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Token ids" }, h("table", { class: "mono" },
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "id"), h("th", { scope: "col" }, "log-probability"))), h("tbody", {}, rows)))));
  }

  // ---- out ----

  _copies() {
    const said = h("span", { class: "small", role: "status" });
    const done = async (text, what) => announce(said, (await copy(text)) ? `Copied: ${what}` : "The browser allows no copy; select the text");
    const select = h("select", { "aria-label": "Kind of code", on: { change: () => this._code() } },
      Object.keys(SNIPPETS).map((name) => h("option", {}, name)));
    this.code = h("pre", { class: "code", tabindex: "0", "aria-label": "Code" });
    this.codeKind = select;
    const python = Object.keys(SNIPPETS)[0];
    return h("section", { class: "copies", "aria-label": "Copy" },
      h("div", { class: "row" },
        h("button", { type: "button", id: "copy-json", on: { click: () => done(this.json(), "JSON") } }, "Copy JSON"),
        h("button", { type: "button", id: "copy-python", on: { click: () => done(SNIPPETS[python](this._snippet), "Python") } }, "Copy Python"), said),
      h("details", {}, h("summary", {}, "This request as code"),
        h("div", { class: "row" }, select, h("button", { type: "button", class: "quiet", on: { click: () => done(this.code.textContent, select.value) } }, "Copy")),
        this.code));
  }

  /** The answers as /v1/predict gave them. */
  json() {
    return `${JSON.stringify({ answers: this.answers }, null, 2)}\n`;
  }

  /** What was asked, with the score that is shown now. */
  get _snippet() {
    const least = Math.max(this.least, this.asked.options.min_score ?? 0);
    return { ...this.asked, options: { ...this.asked.options, ...(least ? { min_score: least } : {}) } };
  }

  _code() {
    this.code.textContent = SNIPPETS[this.codeKind.value](this._snippet);
  }
}

/** An error in place of answers, as the server gave it. */
export function errorBox(error) {
  return h("p", { class: "error", id: "error-text" }, line(error), error.retryAfter && ` (again in ${error.retryAfter} s)`);
}

function summary(answer) {
  const count = answer.regions.length;
  if (count || !answer.texts.length) return count === 1 ? "1 region" : `${count} regions`;
  return answer.texts.length === 1 ? "text" : `${answer.texts.length} texts`;
}

function words(item) {
  const score = typeof item.score === "number" ? `score ${item.score.toFixed(2)}` : "no score";
  const box = boundsOf(item);
  return box ? `${score}, from ${Math.round(box[0])}, ${Math.round(box[1])} to ${Math.round(box[2])}, ${Math.round(box[3])}` : score;
}

function scoreOf(item) {
  return typeof item.score === "number" && h("span", { class: "score", title: String(item.score) }, item.score.toFixed(2));
}

function number(value) {
  return value === undefined ? "" : value.toFixed(4);
}

function swatch(label) {
  const mark = h("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.background = colourOf(label);
  return mark;
}
