// One picture large: its annotations drawn and listed, judged, changed and added. Knows no server but through Corrections.

import { AnnotationList, nameOf, story } from "./annotations.js";
import { colourOf } from "./colours.js";
import { announce, fill, h } from "./dom.js";
import { boundsOf, moved } from "./geometry.js";
import { Overlay } from "./overlay.js";

const HANDLES = 60; // corners that are shown to be dragged
const NEAR = 10; // screen pixels from the first corner that close a polygon
const AHEAD = 3; // pictures that are fetched ahead
const PROMPTS = {
  box: "", model: "Model: drag roughly around a thing, or click on it.",
  quad: "Quad: click its four corners, from the top left of what is written, clockwise.", polygon: "Polygon: click its corners; Enter closes it.",
};

export class Editor {
  /**
   * `parts`: elements by name; `corrections`, `palette`; listeners: onPlace(place), onClose(), assist(id, body), askText(title, text),
   * askPerson() -> whether there is a name, scope() -> labels that accepting a picture says it is complete for.
   */
  constructor(parts, corrections, palette, listeners) {
    Object.assign(this, { parts, corrections, palette, listeners });
    this.listing = null;
    this.place = 0;
    this.picture = null;
    this.selected = null; // the key of an annotation
    this.draft = null; // {box | quad | polygons, label, kind}: drawn, without a label yet
    this.corners = []; // of a quad or polygon that is being drawn
    this.tool = "box";
    this.withRejected = false;
    this.overlay = new Overlay(parts.stage, {
      onSelect: (id) => this.select(id), onHover: (id) => this.hover(id),
      onDraw: (box) => this._drawn(box), onPoint: (point, id) => this._pointed(point, id),
      onChange: (id, region) => this._moved(id, region),
    });
    this.overlay.drawing = true;
    for (const name of ["pointerdown", "pointermove"]) parts.stage.addEventListener(name, (event) => this._aim(event), true);
    this.list = new AnnotationList(parts.annotations, { onSelect: (key) => this.select(key), onHover: (key) => this.hover(key) });
  }

  get isOpen() { return this.listing !== null; }
  get id() { return this.listing?.at(this.place)?.id ?? null; }

  // ---- which picture ----

  async open(listing, place) {
    this.listing = listing;
    await this.go(place);
  }

  close() {
    this.listing = null;
    this.picture = null;
  }

  async go(place) {
    const asked = this._asked = performance.now();
    await this.listing.ensure(place - 1, place + AHEAD);
    if (!this.listing || asked !== this._asked) return;
    const item = this.listing.at(place);
    if (!item) return;
    this.place = place;
    this.selected = this.draft = null;
    this.corners = [];
    const [picture, image] = await Promise.all([this.corrections.picture(item.id), this.corrections.image(item).catch(() => null)]);
    if (asked !== this._asked || !this.listing) return;
    this.selected = this.draft = null; // what was begun on the picture before meanwhile is not of this one
    this.corners = [];
    this.picture = picture;
    const alt = `${picture.name}; its annotations are listed beside it`;
    if (image) await this.overlay.open(image, alt);
    else this.overlay.blank([picture.width || 640, picture.height || 480]);
    this.draw();
    this.prompt(image ? PROMPTS[this.tool] : "The picture cannot be shown: its file is not there, or is no longer the one that was taken in.");
    this.listeners.onPlace(place, performance.now() - asked);
    announce(this.parts.live, `${picture.name}, ${place + 1} of ${this.listing.total}: ${this.list.shown.filter((each) => each.status === "kept").length} annotations`);
    const around = [1, 2, 3, -1].map((step) => this.listing.at(place + step)).filter(Boolean);
    setTimeout(() => this.corrections.prefetch(around), 0);
  }

  step(by) {
    const to = this.place + by;
    if (to < 0 || to >= this.listing.total) {
      this.prompt(by > 0 ? "That was the last picture of this list." : "This is the first picture of this list.");
      return Promise.resolve();
    }
    return this.go(to);
  }

  /** Show what has become of the picture. */
  refresh(id) {
    if (!this.picture || id !== this.picture.id) return;
    this.picture = this.corrections.view(id) ?? this.picture;
    this.draw();
  }

  // ---- showing ----

  /** The annotations of the list: objects and words first, then texts; replaced ones are in the history alone. */
  get annotations() {
    const shown = this.picture.annotations.filter((each) => each.status === "kept" || (this.withRejected && each.status === "rejected"));
    const placed = shown.map((each) => boundsOf(each) !== null);
    return [...shown.filter((_, n) => placed[n]), ...shown.filter((_, n) => !placed[n])];
  }

  get chosen() { return this.picture?.annotations.find((each) => each.key === this.selected) ?? null; }

  draw() {
    if (!this.picture) return;
    const { annotations } = this;
    if (this.selected && !annotations.some((each) => each.key === this.selected)) this.selected = null;
    const drawn = annotations.filter((each) => boundsOf(each)).map((each) => this._region(each));
    if (this.draft) drawn.push({ ...this.draft, id: "draft", label: this.draft.label || "?", colour: this.draft.label ? undefined : "#ffffff" });
    if (this.corners.length) drawn.push(this._unfinished());
    this.overlay.selected = this.selected;
    this.overlay.edited = this.draft ? "draft" : this._canDrag(this.chosen) ? this.selected : null;
    this.overlay.show(drawn);
    this.list.show(annotations, this.selected);
    this._detail();
    this._coverage();
    this.parts.heading.textContent = this.picture.name;
    fill(this.parts.heading, h("span", { class: "name" }, this.picture.name),
      h("span", { class: "soft small" }, ` ${(this.place + 1).toLocaleString("en")} of ${this.listing.total.toLocaleString("en")}`),
      this.picture.review === "complete" && h("span", { class: "badge", title: "complete" }, "✓"));
  }

  _region(each) {
    const { key, label, score, box, quad, polygons, status } = each;
    const name = each.kind === "text" ? label : nameOf(each);
    return { id: key, label: name, score, box, quad, polygons, colour: colourOf(label), faint: status !== "kept", dashed: status !== "kept" };
  }

  _unfinished() {
    const flat = this.corners.flat();
    const near = 3 * this.overlay.scale, [x, y] = this.corners[0];
    const shape = this.corners.length > 1 ? { polygons: [flat] } : { box: [x - near, y - near, x + near, y + near] };
    return { id: "corners", label: "", colour: "#ffffff", dashed: true, ...shape };
  }

  _canDrag(each) {
    if (!each || !boundsOf(each)) return false;
    return !each.polygons.length || each.polygons.flat().length <= 2 * HANDLES;
  }

  hover(key) {
    this.overlay.hover(key);
    this.list.hover(key);
  }

  select(key) {
    if (this.draft || this.corners.length) return;
    this.selected = key;
    this.draw();
    const each = this.chosen;
    if (each) announce(this.parts.live, `${nameOf(each)}, ${each.status}`);
  }

  /** Select the next annotation of the list, or the one before. */
  move(by) {
    const keys = this.annotations.map((each) => each.key);
    const at = keys.indexOf(this.selected);
    if (keys.length) this.select(keys[at < 0 ? (by > 0 ? 0 : keys.length - 1) : (at + by + keys.length) % keys.length]);
  }

  prompt(text) { this.parts.prompt.textContent = text; }

  _detail() {
    const each = this.chosen;
    if (!each) {
      fill(this.parts.detail);
      return;
    }
    const kept = each.status === "kept";
    const button = (key, words, does) => h("button", { type: "button", class: "small", on: { click: does } }, words, " ", h("kbd", {}, key));
    fill(this.parts.detail, h("h3", {}, nameOf(each)),
      h("div", { class: "row" },
        kept ? button("X", "Reject", () => this.judge("rejected")) : button("Y", "Keep", () => this.judge("kept")),
        kept && button("Y", "Confirm", () => this.judge("kept")),
        boundsOf(each) && button("L", "Label…", () => this.relabel(null)),
        (each.text || each.kind === "text") && each.kind !== "phrase" && button("E", "Text…", () => this.editText())),
      h("ul", { class: "story small" }, story(each)));
  }

  _coverage() {
    const { complete, whole, review } = this.picture;
    const shown = complete.slice(0, 12).join(", ");
    const words = whole ? "All that this picture holds is stated." : complete.length
      ? ["Complete for ", h("span", { class: "words" }, complete.length > 12 ? `${shown} and ${complete.length - 12} more` : shown), "."]
      : "Not said to be complete for any label.";
    fill(this.parts.coverage, h("h3", {}, "Complete for"), h("p", { class: `small ${review === "complete" ? "" : "soft"}` }, words),
      h("button", { type: "button", class: "small", on: { click: () => this.listeners.chooseComplete(this.picture) } }, "Choose labels… ", h("kbd", {}, "C")));
  }

  // ---- judging ----

  async _change(what) {
    if (!this.picture || !(await this.listeners.askPerson())) return false;
    this.corrections.change(this.picture.id, what);
    return true;
  }

  /** What is kept is right, and nothing is missing of the labels in question: on to the next picture. */
  async accept() {
    if (!this.picture || this.draft || this.corners.length) return;
    const { picture } = this;
    if (picture.id !== this.id) return; // the next one is on its way: nobody has seen it
    const changes = picture.annotations.filter((each) => each.status === "kept").map((each) => ({ verdict: "kept", key: each.key }));
    const complete = this.listeners.scope();
    if (!changes.length && !complete.length) {
      this.prompt("Nothing is kept here, and accepting says nothing of completeness: there is nothing to enter.");
      return;
    }
    if (await this._change({ changes, complete })) await this.step(1);
  }

  async judge(verdict) {
    const each = this.chosen;
    if (!each) return;
    const next = this.annotations[this.annotations.indexOf(each) + 1]?.key ?? null;
    if (await this._change({ changes: [{ verdict, key: each.key }] })) {
      announce(this.parts.live, `${nameOf(each)} ${verdict}`);
      if (verdict === "rejected" && !this.withRejected) this.select(next);
    }
  }

  /** Give the draft or the chosen annotation a label; null: let one be chosen. */
  async relabel(label) {
    const each = this.chosen;
    if (!this.draft && !(each && boundsOf(each))) {
      if (label === null) this.prompt("Choose an annotation first: ↑ ↓, or click on it.");
      return;
    }
    if (each && !this.draft && each.kind === "text") {
      await this.editText();
      return;
    }
    label ??= await this.listeners.chooseLabel(this.draft ? "Label of the new object" : `Another label for ${nameOf(each)}`, "");
    if (!label) return;
    this.palette.used(label);
    if (this.draft) await this._enter(label);
    else if (label !== each.label) await this._change({ changes: [{ verdict: "changed", key: each.key, label }] });
  }

  async editText() {
    const each = this.chosen;
    if (!each || !(each.text || each.kind === "text")) {
      this.prompt("Choose a text first: ↑ ↓.");
      return;
    }
    if (each.kind === "phrase") {
      this.prompt("A phrase is part of a text: edit the text, or keep or reject the phrase.");
      return;
    }
    const field = each.kind === "text" ? "label" : "text";
    const text = await this.listeners.askText(field === "label" ? "What is written here" : "The text", each[field]);
    if (text !== null && text !== each[field]) {
      await this._change({ changes: [{ verdict: "changed", key: each.key, [field]: text }] });
    }
  }

  // ---- drawing ----

  use(tool) {
    this.tool = tool;
    this.corners = [];
    this.prompt(PROMPTS[tool]);
    this.draw();
  }

  /** Whether a drag from here draws, or moves what is chosen: known before the overlay is asked. */
  _aim(event) {
    if (event.buttons && event.type === "pointermove") return;
    const id = this.overlay.pointed(event), handle = event.target.getAttribute?.("data-corner") !== null && event.target.hasAttribute?.("data-corner");
    const edits = this.overlay.edited !== null && (handle || id === this.overlay.edited) && !this.corners.length;
    this.overlay.drawing = !edits;
    this._assisted = this.tool === "model" || event.shiftKey;
  }

  _drawn(box) {
    if (["quad", "polygon"].includes(this.tool)) return;
    if (this._assisted && this.listeners.assist) this._assist({ box }, { box });
    else this._draft({ kind: "object", box, label: "" });
  }

  _pointed(point, id) {
    if (["quad", "polygon"].includes(this.tool)) {
      this._corner(point);
    } else if (this._assisted && this.listeners.assist) {
      this._assist({ point }, null);
    } else if (this.draft) {
      if (id !== "draft") this.cancel();
    } else {
      this.select(id);
    }
  }

  _corner(point) {
    const [first] = this.corners, near = NEAR * this.overlay.scale;
    if (this.tool === "polygon" && this.corners.length > 2 && Math.hypot(point[0] - first[0], point[1] - first[1]) < near) {
      this.closePolygon();
      return;
    }
    this.corners.push(point.map((value, n) => Math.min(this.overlay.size[n], Math.max(0, value))));
    if (this.tool === "quad" && this.corners.length === 4) this._closeQuad();
    else this.draw();
  }

  closePolygon() {
    if (this.corners.length < 3) {
      this.prompt("A polygon needs three corners or more.");
      return;
    }
    const polygons = [this.corners.flat()];
    this.corners = [];
    this._draft({ kind: "object", polygons, label: "" });
  }

  async _closeQuad() {
    const quad = this.corners.flat();
    this.corners = [];
    this.draft = { kind: "text", quad, label: "" };
    this.draw();
    const text = await this.listeners.askText("What is written here", "");
    if (text) await this._enter(text);
    else this.cancel();
  }

  async _assist(body, rough) {
    const { picture } = this;
    const asked = this._assisting = {};
    if (rough) this._draft({ kind: "object", box: rough.box, label: "" });
    this.prompt("The model is asked…");
    try {
      const found = await this.listeners.assist(picture.id, body);
      if (asked !== this._assisting || picture !== this.picture && picture.id !== this.picture?.id) return;
      const shape = found.polygons.length ? { polygons: found.polygons } : { box: found.box };
      this._draft({ kind: "object", ...shape, label: found.label });
    } catch (error) {
      if (asked === this._assisting) this.prompt(error.message);
    }
  }

  _draft(draft) {
    this.selected = null;
    this.draft = draft;
    this.draw();
    const last = draft.label || this.palette.last;
    this.prompt(`${last ? `Enter: ${last}. ` : ""}1 to 9 or L: its label. Esc: not after all.`);
    announce(this.parts.live, `New region${draft.label ? `, the model says ${draft.label}` : ""}; choose a label`);
  }

  /** Enter the draft under the label that is offered; whether there was one. */
  confirm() {
    if (this.corners.length) {
      if (this.tool === "polygon") this.closePolygon();
      return true;
    }
    if (!this.draft) return false;
    const label = this.draft.label || this.palette.last;
    this.relabel(label || null);
    return true;
  }

  async _enter(label) {
    const { draft } = this;
    const key = this.corrections.newKey();
    const { kind, box, quad, polygons } = draft;
    const change = { verdict: "added", key, kind, label, ...(polygons ? { polygons } : quad ? { quad } : { box }) };
    if (!(await this._change({ changes: [change] }))) return;
    this.draft = null;
    this.prompt(PROMPTS[this.tool]);
    this.select(key);
  }

  /** Give up what is being drawn; whether there was anything. */
  cancel() {
    if (!this.draft && !this.corners.length) return false;
    this.draft = this._assisting = null;
    this.corners = [];
    this.prompt(PROMPTS[this.tool]);
    this.draw();
    return true;
  }

  _moved(key, region) {
    if (key === "draft") {
      const { box, quad, polygons } = region;
      this.draft = { ...this.draft, ...(polygons?.length ? { polygons } : quad?.length ? { quad } : { box }) };
      this.draw();
      return;
    }
    const shape = region.polygons?.length ? { polygons: region.polygons } : region.quad?.length ? { quad: region.quad } : { box: region.box };
    this._change({ changes: [{ verdict: "changed", key, ...shape }] }).then((done) => { if (!done) this.draw(); });
  }

  /** Move the draft or what is chosen by some pixels. */
  nudge(dx, dy) {
    const each = this.draft ? { ...this.draft, key: "draft" } : this.chosen;
    if (each && boundsOf(each)) this._moved(each.key, moved(each, dx, dy, this.overlay.size));
  }
}
