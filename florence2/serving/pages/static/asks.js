// What is asked: tasks to pick, the fields that they take, the options of decoding; all from the schemas of /v1/tasks.

import { fill, h } from "./dom.js";

const GROUPS = [["", "About the whole picture"], ["text", "With a text"], ["region", "With a region"]];
const SIDES = ["x1", "y1", "x2", "y2"];

export class Asks {
  /** `parts`: the elements {tasks, fields, options}; `onRegion(box)` hears of a region typed in, null where it is none. */
  constructor(parts, { tasks, options }, { onRegion, onChange }) {
    Object.assign(this, { parts, tasks, optionSchemas: options, onRegion, onChange });
    this.chosen = []; // names, in the order in which they were picked
    this.values = {}; // task -> {text, labels} as typed
    this.region = null;
    this._pickers();
    this._options();
    this._fields();
  }

  /** Pick tasks by name. */
  choose(names) {
    this.chosen = names.filter((name) => name in this.tasks);
    for (const box of this.parts.tasks.querySelectorAll("input")) box.checked = this.chosen.includes(box.value);
    this._fields();
  }

  /** Take a region that was drawn. */
  setRegion(box) {
    this.region = box && box.map((value) => Math.round(value * 10) / 10);
    this._fields();
  }

  get takesRegion() {
    return this.chosen.some((name) => this.tasks[name].takes === "region");
  }

  /** The asks as /v1/predict takes them. */
  asks() {
    return this.chosen.map((name) => {
      const { takes } = this.tasks[name], { text = "", labels = "" } = this.values[name] ?? {};
      const names = listed(labels);
      return {
        task: name,
        ...(takes === "text" && text.trim() ? { text: text.trim() } : {}),
        ...(this._takesLabels(name) && names.length ? { labels: names } : {}),
        ...(takes === "region" && this.region ? { region: this.region } : {}),
      };
    });
  }

  /** What was said about decoding: only what differs from nothing said. */
  options() {
    const out = {};
    for (const field of this.parts.options.querySelectorAll("input")) {
      if (field.dataset.default) {
        if (String(field.checked) !== field.dataset.default) out[field.name] = field.checked;
      } else if (field.type === "checkbox") {
        if (field.checked) out[field.name] = [...(out[field.name] ?? []), field.value];
      } else if (field.value !== "") {
        out[field.name] = field.valueAsNumber;
      }
    }
    return out;
  }

  /** The field that an error of the server names ("asks.1.text", "num_beams"), or null. */
  fieldOf(name) {
    const found = /^asks\.(\d+)\.(\w+)$/.exec(name ?? "");
    const [task, own] = found ? [this.chosen[Number(found[1])], found[2]] : ["", name];
    const all = [...this.parts.fields.querySelectorAll("[data-field]"), ...this.parts.options.querySelectorAll("[data-field]")];
    return all.find((one) => one.dataset.field === own && (!one.dataset.task || one.dataset.task === task)) ?? null;
  }

  _takesLabels(name) {
    const schema = this.tasks[name].ask.properties.labels;
    return Boolean(schema && schema.items);
  }

  _pickers() {
    fill(this.parts.tasks, GROUPS.map(([takes, title]) => {
      const names = Object.keys(this.tasks).filter((name) => this.tasks[name].takes === takes);
      return names.length > 0 && h("fieldset", { class: "pick" }, h("legend", {}, title),
        h("div", { class: "chips" }, names.map((name) => h("label", { class: "chip", title: this.tasks[name].ask.description },
          h("input", { type: "checkbox", name: "task", value: name, on: { change: (event) => this._picked(name, event.target.checked) } }),
          h("span", {}, name)))));
    }));
  }

  _picked(name, on) {
    this.chosen = on ? [...this.chosen, name] : this.chosen.filter((one) => one !== name);
    this._fields();
    this.onChange();
  }

  _fields() {
    const rows = this.chosen.map((name) => {
      const text = this.tasks[name].takes === "text" && this._text(name);
      const labels = this._takesLabels(name) && this._labels(name);
      return (text || labels) && h("fieldset", { class: "own" }, h("legend", { class: "mono" }, name), text, labels);
    });
    fill(this.parts.fields, (this.takesRegion || this.region) && this._regionFields(), rows);
  }

  _text(name) {
    const described = this.tasks[name].ask.properties.text.description;
    return this._typed(name, "text", "Text", described, this.tasks[name].ask.required?.includes("text"));
  }

  _labels(name) {
    return this._typed(name, "labels", "Labels", "only these, with commas between; empty: any", false);
  }

  _typed(task, field, title, hint, required) {
    const input = h("input", {
      type: "text", "data-field": field, "data-task": task, value: this.values[task]?.[field] ?? "", placeholder: hint,
      "aria-required": required ? "true" : null, autocomplete: "off", spellcheck: field === "labels" ? "false" : null,
      "aria-label": `${title} for ${task}`,
      on: { input: () => { (this.values[task] ??= {})[field] = input.value; } },
    });
    return h("label", { class: "typed" }, h("span", { class: "soft small" }, title), input);
  }

  _regionFields() {
    const inputs = SIDES.map((side, n) => h("input", {
      type: "number", step: "any", min: 0, "data-field": "region", "aria-label": `region ${side}, pixels`,
      value: this.region ? this.region[n] : "", on: { input: () => this._typedRegion(inputs) },
    }));
    return h("fieldset", { class: "own region-fields" },
      h("legend", {}, "Region in pixels: draw or type it"),
      h("div", { class: "row" }, SIDES.map((side, n) => h("label", {}, h("span", { class: "soft small" }, side), inputs[n])),
        h("button", { type: "button", class: "quiet", on: { click: () => { this.setRegion(null); this.onRegion(null); } } }, "Clear")),
      !this.takesRegion && h("p", { class: "small soft" }, "Pick a task with a region to ask about it."));
  }

  _typedRegion(inputs) {
    const values = inputs.map((input) => input.valueAsNumber);
    this.region = values.every(Number.isFinite) ? values : null;
    this.onRegion(this.region);
  }

  _options() {
    const order = (schema) => ["boolean", "array"].indexOf(schema.type); // numbers first
    const sorted = Object.entries(this.optionSchemas).sort(([, a], [, b]) => order(a) - order(b));
    fill(this.parts.options, sorted.map(([name, schema]) => {
      if (schema.type === "array") {
        return h("fieldset", {}, h("legend", { class: "mono" }, name), h("div", { class: "row", "data-field": name, tabindex: "-1" },
          (schema.items.oneOf ?? []).map((one) => h("label", { title: one.description },
            h("input", { type: "checkbox", name, value: one.const }), one.const))));
      }
      if (schema.type === "boolean") {
        return h("label", { title: schema.description }, h("input", {
          type: "checkbox", name, "data-field": name, checked: schema.default, "data-default": String(schema.default),
        }), h("span", { class: "mono" }, name));
      }
      const whole = [schema.type].flat().includes("integer");
      return h("label", { class: "above", title: schema.description }, h("span", { class: "mono" }, name), h("input", {
        type: "number", name, "data-field": name, min: schema.minimum, max: schema.maximum, step: whole ? 1 : "any",
        placeholder: schema.default ?? (whole ? "model's" : "off"),
      }));
    }));
  }
}

/** Names with commas or line ends between them. */
export function listed(text) {
  return text.split(/[,\n]/).map((name) => name.trim()).filter(Boolean);
}
