// Regions drawn over a picture, chosen and changed by mouse and keys: an <img> with an SVG on it. Shared by the pages.
//
//   const overlay = new Overlay(element, { onSelect(id, event), onHover(id), onDraw(box), onPoint([x, y]), onChange(id, region) });
//   await overlay.open(url, "a photo")        the picture -> [width, height] of it upright; rejects where it cannot be shown;
//                                             in place of an address an <img> that is decoded already
//   overlay.blank([width, height])            no picture: an empty field of that size
//   overlay.show(regions)                     [{id, label, score, box | quad | polygons | mask, colour?, dashed?, faint?}]
//   overlay.hide(ids)                         a Set of what is not drawn
//   overlay.select(id)                        bring one forward; null: none
//   overlay.edit(id)                          handles on one: its corners and itself can be dragged -> onChange; null: none
//   overlay.drawing = true                    a drag makes a box -> onDraw; a click -> onPoint
//   overlay.mark(box)                         a box that is no region of the answer, dashed; null: none
//   overlay.zoom = 2                          of the size that fits; overlay.reveal(id) scrolls to a region
//
// Places are pixels of the upright picture everywhere, regions are records' JSON (geometry.js). Labels are text nodes.
// The SVG is hidden from screen readers: whoever shows regions lists them beside the picture too.

import { colourOf, inkOn } from "./colours.js";
import { arrange, Elements, fill, h, svg } from "./dom.js";
import { boundsOf, boxOf, corners, decodeMask, moved, points } from "./geometry.js";

const CLICK = 4; // screen pixels that a click may move
const MANY = 300; // regions of which not each has its words beside it: nobody could read them
const LETTER = 13; // of labels, in screen pixels

export class Overlay {
  constructor(element, listeners = {}) {
    this.listeners = listeners;
    this.size = [0, 0];
    this.regions = [];
    this.hidden = new Set();
    this.selected = this.edited = this.hovered = this.marked = null;
    this._elements = new Elements();
    this._many = false;
    this._zoom = 1;
    this._drawing = false;
    this.image = h("img", { alt: "", draggable: "false" });
    this.svg = svg("svg", { "aria-hidden": "true", preserveAspectRatio: "none" });
    this.picture = h("div", { class: "picture" }, this.image, this.svg);
    this.stage = fill(element, this.picture);
    this.stage.classList.add("stage");
    new ResizeObserver(() => this._fit()).observe(this.stage);
    this.svg.addEventListener("pointerdown", (event) => this._down(event));
    this.stage.addEventListener("pointerdown", (event) => { // what reaches the picture's edge is drawn from beside it
      const { clientWidth, clientHeight } = this.stage; // without its scroll bars
      if (this._drawing && event.target === this.stage && event.offsetX < clientWidth && event.offsetY < clientHeight) this._down(event);
    });
    this.svg.addEventListener("pointermove", (event) => this._hover(event));
    this.svg.addEventListener("pointerleave", () => this._hovered(null));
    this.stage.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
  }

  async open(url, alt = "") {
    const image = url instanceof HTMLImageElement ? url : h("img", { draggable: "false", src: url });
    image.alt = alt;
    if (image !== url) await image.decode();
    this.image.replaceWith(image);
    this.image = image;
    this._sized([image.naturalWidth, image.naturalHeight]);
    return this.size;
  }

  blank(size) {
    this.image.removeAttribute("src");
    this.image.alt = "";
    this._sized(size);
  }

  show(regions) {
    this.regions = regions;
    this._draw();
  }

  hide(ids) {
    this.hidden = ids;
    this._draw();
  }

  select(id) {
    this.selected = id;
    this._draw();
  }

  edit(id) {
    this.edited = id;
    this._draw();
  }

  mark(box) {
    this.marked = box && boxOf(box.slice(0, 2), box.slice(2), this.size);
    this._draw();
  }

  get drawing() { return this._drawing; }

  set drawing(on) {
    this._drawing = on;
    this.stage.classList.toggle("drawing", on);
  }

  get zoom() { return this._zoom; }

  set zoom(factor) {
    const around = this.stage.getBoundingClientRect();
    const middle = { clientX: around.left + around.width / 2, clientY: around.top + around.height / 2 };
    const before = this.place(middle);
    this._zoom = Math.min(16, Math.max(1, factor));
    this._fit();
    this._shift(before, this.place(middle));
  }

  /** Scroll a picture that is larger than its stage to a region. */
  reveal(id) {
    const box = boundsOf(this.regions.find((region) => region.id === id) ?? {});
    if (!box) return;
    const [left, top, right, bottom] = box.map((value) => value / this.scale);
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.stage;
    const outside = left < scrollLeft || right > scrollLeft + clientWidth || top < scrollTop || bottom > scrollTop + clientHeight;
    if (outside) this.stage.scrollTo((left + right - clientWidth) / 2, (top + bottom - clientHeight) / 2);
  }

  _shift(from, to) {
    this.stage.scrollLeft += (from[0] - to[0]) / this.scale;
    this.stage.scrollTop += (from[1] - to[1]) / this.scale;
  }

  /** Where a pointer is, in pixels of the picture. */
  place(event) {
    const around = this.svg.getBoundingClientRect();
    const across = (event.clientX - around.left) / around.width, down = (event.clientY - around.top) / around.height;
    return [across * this.size[0], down * this.size[1]];
  }

  /** Picture pixels in one screen pixel. */
  get scale() {
    return this.size[0] / (this.picture.clientWidth || this.size[0] || 1);
  }

  _sized(size) {
    this.size = size;
    this._zoom = 1;
    this.svg.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    this._fit();
  }

  _fit() {
    const [width, height] = this.size;
    if (!width || !this.stage.offsetWidth) return;
    const style = getComputedStyle(this.stage), borders = 2 * parseFloat(style.borderTopWidth);
    const filled = this.stage.classList.contains("filled"); // its height is the page's, not the picture's
    const high = filled ? this.stage.offsetHeight : parseFloat(style.maxHeight) || Infinity;
    const room = [this.stage.offsetWidth - borders, high - borders];
    const fit = Math.min(room[0] / width, room[1] / height, Math.max(1, (filled ? 1600 : 640) / Math.max(width, height)));
    this.stage.classList.toggle("zoomed", this._zoom > 1);
    const [wide, tall] = [width, height].map((side) => Math.max(1, Math.round(side * fit * this._zoom))); // a thread is a line
    this.picture.style.width = `${wide}px`;
    this.picture.style.height = `${tall}px`;
    this._draw();
  }

  _draw() {
    const last = (id) => Number(id === this.edited) * 4 + Number(id === this.selected) * 2 + Number(id === this.hovered);
    const areas = new Map(this.regions.map((region) => [region, area(region)]));
    const drawn = this.regions.filter((region) => !this.hidden.has(region.id))
      .sort((a, b) => last(a.id) - last(b.id) || areas.get(b) - areas.get(a)); // small ones on top, so that each can be pointed at
    this._many = drawn.length > MANY;
    const elements = drawn.map((region) => this._element(region));
    this._elements.done();
    arrange(this.svg, [this.marked && this._mark(this.marked), ...elements, this._draft].filter(Boolean));
  }

  /** A region's element: the one from before where it would look the same. */
  _element(region) {
    const { id, label, score, box, quad, polygons, mask, colour, faint, dashed } = region;
    const state = [id === this.selected, id === this.edited, id === this.hovered, this.scale, this._many, ...this.size];
    const sign = JSON.stringify([label, score, box, quad, polygons, mask, colour, faint, dashed, state]);
    return this._elements.get(id, sign, () => this._region(region));
  }

  _region(region) {
    const colour = region.colour ?? colourOf(region.label || "");
    const strong = region.id === this.selected || region.id === this.hovered || region.id === this.edited;
    const classes = ["region", strong && "strong", region.faint && "faint", region.dashed && "dashed"];
    const group = svg("g", { class: classes.filter(Boolean).join(" "), "data-id": region.id, stroke: colour, fill: colour });
    const outlines = region.quad?.length ? [region.quad] : region.polygons?.length ? region.polygons : [];
    for (const flat of outlines) {
      const path = points(flat).map(([x, y]) => `${x},${y}`).join(" ");
      group.append(svg("polygon", { class: "halo", points: path }), svg("polygon", { class: "line", points: path }));
    }
    if (!outlines.length && region.mask) group.append(maskImage(region.mask, colour));
    if (!outlines.length && region.box) {
      const [x1, y1, x2, y2] = region.box;
      const place = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
      if (strong || !this._many) group.append(svg("rect", { class: "halo", ...place }));
      group.append(svg("rect", { class: "line", ...place }));
    }
    const words = strong || !this._many ? caption(region) : "";
    if (words) group.append(this._label(region, words, colour));
    if (region.id === this.edited) group.append(...this._handles(region));
    return group;
  }

  _label(region, words, colour) {
    const [x1, y1] = boundsOf(region) ?? [0, 0];
    const letter = LETTER * this.scale, high = letter * 1.45;
    const wide = (widthOf(words) + 0.7) * letter;
    const x = Math.max(0, Math.min(x1, this.size[0] - wide)), y = y1 - high < 0 ? y1 : y1 - high;
    return svg("g", { class: "label" },
      svg("rect", { x, y, width: wide, height: high }),
      svg("text", { x: x + letter * 0.35, y: y + high * 0.72, "font-size": letter, fill: inkOn(colour) }, words));
  }

  _handles(region) {
    const radius = 5 * this.scale;
    return corners(region).map(({ x, y }, n) => svg("circle", { class: "handle", cx: x, cy: y, r: radius, "data-corner": n }));
  }

  _mark([x1, y1, x2, y2]) {
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    return svg("g", { class: "mark" }, svg("rect", { class: "halo", ...place }), svg("rect", { class: "line", ...place }));
  }

  get _draft() {
    return this._drag?.box ? this._mark(this._drag.box) : null;
  }

  _down(event) {
    if (event.button !== 0 || !this.size[0]) return;
    const start = this.place(event), corner = event.target.getAttribute("data-corner");
    const id = this.pointed(event);
    const edited = this.regions.find((region) => region.id === this.edited);
    if (!this._drawing && !(edited && (corner !== null || id === this.edited))) {
      this.listeners.onSelect?.(id, event);
      return;
    }
    event.preventDefault();
    this.svg.setPointerCapture(event.pointerId);
    const at = [event.clientX, event.clientY];
    const drag = this._drag = { box: null, region: null };
    const move = (to) => {
      if (Math.hypot(to.clientX - at[0], to.clientY - at[1]) < CLICK && !drag.box && !drag.region) return;
      const here = this.place(to);
      if (this._drawing) {
        drag.box = boxOf(start, here, this.size);
      } else {
        const inside = [0, 1].map((n) => Math.min(this.size[n], Math.max(0, here[n])));
        drag.region = corner !== null
          ? corners(edited)[Number(corner)].put(...inside)
          : moved(edited, here[0] - start[0], here[1] - start[1], this.size);
        this.regions = this.regions.map((region) => (region.id === edited.id ? drag.region : region));
      }
      this._draw();
    };
    const stop = (to) => {
      for (const [name, listener] of Object.entries(ending)) this.svg.removeEventListener(name, listener);
      document.removeEventListener("keydown", ending.keydown, true);
      this._drag = null;
      if (to.type !== "pointerup") { // given up
        if (drag.region) this.regions = this.regions.map((region) => (region.id === edited.id ? edited : region));
      } else if (drag.region) {
        this.listeners.onChange?.(edited.id, drag.region);
      } else if (drag.box && drag.box[2] > drag.box[0] && drag.box[3] > drag.box[1]) {
        this.listeners.onDraw?.(drag.box);
      } else if (this._drawing) {
        if (start.every((value, n) => value >= 0 && value <= this.size[n])) this.listeners.onPoint?.(start, id);
      } else {
        this.listeners.onSelect?.(id, event);
      }
      this._draw();
    };
    const ending = {
      pointermove: move, pointerup: stop, pointercancel: stop,
      keydown: (key) => { if (key.key === "Escape") { key.stopPropagation(); stop(key); } },
    };
    for (const name of ["pointermove", "pointerup", "pointercancel"]) this.svg.addEventListener(name, ending[name]);
    document.addEventListener("keydown", ending.keydown, true);
  }

  /** The region under a pointer: the smallest one drawn there. */
  pointed(event) {
    return event.target.closest?.("[data-id]")?.getAttribute("data-id") ?? null;
  }

  _hover(event) {
    if (!this._drag) this._hovered(this.pointed(event));
  }

  _hovered(id) {
    if (id !== this.hovered) this.listeners.onHover?.(id);
  }

  /** Bring forward what is pointed at here or in a list. */
  hover(id) {
    if (id === this.hovered) return;
    this.hovered = id;
    if (this._many) this._draw(); // the words of what is pointed at
    for (const group of this.svg.querySelectorAll("[data-id]")) {
      const own = group.getAttribute("data-id");
      group.classList.toggle("strong", [id, this.selected, this.edited].includes(own));
    }
  }

  _wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const before = this.place(event);
    this.zoom = this._zoom * 1.0015 ** -event.deltaY;
    this._shift(before, this.place(event));
  }
}

const widths = new Map(); // a label's text -> its width, in its letters' height

function widthOf(words) {
  if (!widths.has(words)) {
    ruler ??= h("canvas").getContext("2d");
    ruler.font = `600 100px ${getComputedStyle(document.body).fontFamily}`;
    if (widths.size > 5000) widths.clear();
    widths.set(words, ruler.measureText(words).width / 100);
  }
  return widths.get(words);
}

let ruler = null;

function caption(region) {
  const label = region.label ?? "";
  const short = [...label].length > 32 ? `${[...label].slice(0, 31).join("")}…` : label;
  const score = typeof region.score === "number" ? region.score.toFixed(2) : "";
  return [short, score].filter(Boolean).join(" ");
}

function area(region) {
  const [x1, y1, x2, y2] = boundsOf(region) ?? [0, 0, 0, 0];
  return (x2 - x1) * (y2 - y1);
}

const drawnMasks = new Map(); // counts and colour -> an image's address

function maskImage(mask, colour) {
  const key = `${colour} ${mask.width} ${mask.height} ${mask.counts}`;
  if (!drawnMasks.has(key)) {
    const { width, height, data } = decodeMask(mask);
    const canvas = h("canvas", { width, height });
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    const rgb = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    data.forEach((value, n) => { if (value) image.data.set([...rgb, 130], 4 * n); });
    context.putImageData(image, 0, 0);
    if (drawnMasks.size > 200) drawnMasks.clear();
    drawnMasks.set(key, canvas.toDataURL());
  }
  return svg("image", { href: drawnMasks.get(key), x: 0, y: 0, width: mask.width, height: mask.height });
}
