// One picture's annotations in words: the list beside it, the history of the chosen one, what the picture is complete for.

import { arrange, Elements, h } from "./dom.js";
import { boundsOf } from "./geometry.js";
import { swatch } from "./palette.js";

const STATUS = { kept: "kept", rejected: "rejected", superseded: "replaced" };
const MADE_BY = { human: "a person", import: "imported", specialist: "specialist", model: "model", simulated: "simulated" };

/** What an annotation is called in a list. */
export function nameOf(annotation) {
  return annotation.label || annotation.text || annotation.kind;
}

/** Whether a verdict of a person, or a person's own work, stands behind it. */
export function isJudged(annotation) {
  return annotation.source?.kind === "human" || annotation.history.at(-1)?.rule === "human";
}

export class AnnotationList {
  /** Listeners: onSelect(key), onHover(key). */
  constructor(element, listeners) {
    Object.assign(this, { element, listeners });
    this.shown = [];
    this._elements = new Elements();
  }

  /** `annotations` in the order of the list; `selected` a key or null. */
  show(annotations, selected) {
    this.shown = annotations;
    const rows = annotations.map((each) => this._element(each, each.key === selected));
    this._elements.done();
    arrange(this.element, rows.length ? rows : [h("li", { class: "soft none" }, "Nothing is kept on this picture.")]);
    if (selected) this.element.setAttribute("aria-activedescendant", `row-${selected}`);
    else this.element.removeAttribute("aria-activedescendant");
    this.element.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }

  /** An annotation's row: the one from before where it would say the same. */
  _element(each, chosen) {
    const { kind, label, text, status, score, source } = each;
    const sign = JSON.stringify([kind, label, text, status, score, source, isJudged(each), Boolean(boundsOf(each)), chosen]);
    return this._elements.get(each.key, sign, () => this._row(each, chosen));
  }

  hover(key) {
    for (const row of this.element.children) row.classList.toggle("pointed", row.dataset.key === key && key !== null);
  }

  _row(each, chosen) {
    const score = typeof each.score === "number" ? each.score.toFixed(2) : "";
    const marks = [isJudged(each) && each.status === "kept" ? "✓" : "", each.status === "rejected" ? "✗" : ""].join("");
    const by = each.source?.kind === "human" ? each.source.name : each.source?.name ?? "";
    return h("li", {
      role: "option", id: `row-${each.key}`, "data-key": each.key, "aria-selected": String(chosen), class: `annotation ${each.status}`,
      on: {
        click: () => this.listeners.onSelect(each.key),
        pointerenter: () => this.listeners.onHover(each.key), pointerleave: () => this.listeners.onHover(null),
      },
    },
    h("span", { class: "mark", "aria-hidden": "true" }, marks), boundsOf(each) && each.kind === "object" ? swatch(each.label) : h("span", { class: "sort", title: each.kind, "aria-hidden": "true" }, boundsOf(each) ? "T" : "¶"),
    h("span", { class: "name" }, nameOf(each)), h("span", { class: "score" }, score), h("span", { class: "by soft small" }, by),
    h("span", { class: "out-of-sight" }, `${each.kind}, ${STATUS[each.status]}${isJudged(each) ? " by a person" : ""}`));
  }
}

/** Who made an annotation and what was judged of it, in words. */
export function story(annotation) {
  const source = annotation.source;
  const made = source ? [
    source.name, source.version && source.kind !== "human" ? ` ${source.version}` : "",
    source.kind === "human" ? "" : ` (${MADE_BY[source.kind] ?? source.kind})`, `, round ${source.round}`,
  ].join("") : "someone";
  const rows = [h("li", {}, h("strong", {}, "made"), ` by ${made}`,
    typeof annotation.score === "number" ? `, score ${annotation.score.toFixed(3)}` : "")];
  for (const verdict of annotation.history) {
    const who = verdict.person || (verdict.rule === "human" ? "a person" : verdict.rule);
    const numbers = [verdict.value, verdict.threshold].map((value) => (typeof value === "number" ? Number(value.toPrecision(3)) : null));
    rows.push(h("li", {}, h("strong", {}, STATUS[verdict.status] ?? verdict.status), ` by ${who}`,
      verdict.reason && verdict.reason !== verdict.rule ? `: ${verdict.reason.replaceAll("_", " ")}` : "",
      numbers[0] !== null ? h("span", { class: "soft" }, ` ${numbers[0]}${numbers[1] !== null ? `, threshold ${numbers[1]}` : ""}`) : "",
      h("span", { class: "soft" }, ` · round ${verdict.name.split(".")[0]}`)));
  }
  return rows;
}
