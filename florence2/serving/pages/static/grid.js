// The grid of thumbnails: of any number of pictures only those in sight are elements. Moved through by mouse and keys.

import { fill, h } from "./dom.js";
import { addressOf } from "./api.js";

const GAP = 10, WORDS = 30, MARGIN = 2; // pixels; pixels; rows beyond the edge that are kept ready
const STATES = { open: "", touched: "judged in part", complete: "complete" };

export class Grid {
  /** Listeners: onOpen(place), onFocus(place), onNeed(first, last) when those come into sight. */
  constructor(element, listeners) {
    Object.assign(this, { element, listeners });
    this.listing = null;
    this.place = 0;
    this.tile = 200;
    this.room = h("div", { class: "room" });
    fill(element, this.room);
    this._cells = new Map();
    element.addEventListener("scroll", () => this.draw(), { passive: true });
    element.addEventListener("keydown", (event) => this._key(event));
    new ResizeObserver(() => this.draw()).observe(element);
  }

  show(listing, place = 0) {
    this.listing = listing;
    this.place = place;
    this._cells.clear();
    fill(this.room);
    this.element.scrollTop = 0;
    if (place) this._reveal();
    this.draw();
  }

  resize(tile) {
    this.tile = tile;
    this._cells.clear();
    fill(this.room);
    this._reveal();
    this.draw();
  }

  get columns() { return Math.max(1, Math.floor((this.element.clientWidth - GAP) / (this.tile + GAP))); }
  get rowHeight() { return this.tile + WORDS + GAP; }

  draw() {
    const { listing, columns, rowHeight, element } = this;
    if (!listing || listing.total === null || !element.clientWidth) return;
    this.room.style.height = `${Math.ceil(listing.total / columns) * rowHeight + GAP}px`;
    const from = Math.max(0, Math.floor(element.scrollTop / rowHeight) - MARGIN) * columns;
    const to = Math.min(listing.total, (Math.ceil((element.scrollTop + element.clientHeight) / rowHeight) + MARGIN) * columns);
    const wide = (element.clientWidth - GAP - columns * GAP) / columns;
    for (const [place, cell] of this._cells) {
      if (place < from || place >= to || (cell.item !== listing.at(place))) {
        cell.element.remove();
        this._cells.delete(place);
      }
    }
    for (let place = from; place < to; place += 1) {
      const cell = this._cells.get(place) ?? this._cell(place);
      cell.element.style.transform = `translate(${GAP + (place % columns) * (wide + GAP)}px, ${GAP + Math.floor(place / columns) * rowHeight}px)`;
      cell.element.style.width = `${wide}px`;
      cell.element.style.height = `${this.tile + WORDS}px`;
      cell.element.classList.toggle("current", place === this.place);
      cell.element.setAttribute("aria-selected", String(place === this.place));
    }
    element.setAttribute("aria-activedescendant", `cell-${this.place}`);
    if (to > from) this.listeners.onNeed(from, to - 1);
  }

  /** Draw a picture's line again. */
  update(id) {
    for (const [place, cell] of this._cells) {
      if (cell.item?.id === id) {
        cell.element.remove();
        this._cells.delete(place);
      }
    }
    this.draw();
  }

  focus(place) {
    this.place = Math.min(Math.max(0, place), Math.max(0, (this.listing.total ?? 1) - 1));
    this._reveal();
    this.draw();
    this.listeners.onFocus(this.place);
  }

  _cell(place) {
    const item = this.listing.at(place);
    const element = h("div", {
      role: "option", id: `cell-${place}`, class: `cell ${item?.review ?? "loading"}`,
      "aria-setsize": this.listing.total, "aria-posinset": place + 1,
      on: {
        click: () => { this.focus(place); this.listeners.onOpen(place); },
      },
    }, item && this._inside(item));
    this.room.append(element);
    const cell = { element, item };
    this._cells.set(place, cell);
    return cell;
  }

  _inside(item) {
    const side = this.tile * devicePixelRatio > 330 ? 640 : this.tile * devicePixelRatio > 165 ? 320 : 160;
    const state = STATES[item.review];
    const words = item.kept === null ? "" : [`${item.kept} kept`, item.rejected ? `${item.rejected} rejected` : ""].filter(Boolean).join(", ");
    const image = item.picture.startsWith("missing") || item.picture.startsWith("failed") ? null : h("img", {
      alt: "", loading: "lazy", decoding: "async", draggable: "false",
      src: addressOf(item.id, `/thumbnail?side=${side}&v=${item.version}`),
      on: { error: (event) => event.target.replaceWith(h("span", { class: "absent" }, "no picture")) },
    });
    return [
      h("span", { class: "thumb" }, image ?? h("span", { class: "absent" }, item.picture)),
      h("span", { class: "words small" },
        state && h("span", { class: "badge", title: state, "aria-hidden": "true" }, item.review === "complete" ? "✓" : "•"),
        h("span", {}, item.picture === "ok" ? words : item.picture),
        item.split && h("span", { class: "soft end" }, item.split),
        h("span", { class: "out-of-sight" }, state)),
    ];
  }

  _reveal() {
    const top = Math.floor(this.place / this.columns) * this.rowHeight;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.element.scrollTop = top + this.rowHeight + GAP - clientHeight;
  }

  _key(event) {
    if (!this.listing?.total || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = this.columns * Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight));
    const step = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page,
      Home: -this.place, End: this.listing.total - 1 - this.place,
    }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      this.focus(this.place + step);
    } else if (event.key === "Enter") {
      event.preventDefault();
      this.listeners.onOpen(this.place);
    }
  }
}
