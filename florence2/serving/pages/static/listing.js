// The pictures that fit a filter, a page at a time as they are looked at, in an order that corrections do not move.

import { addressOf, ask } from "./api.js";

const PAGE = 60;
const AGAIN = 200; // ms until a server that still reads its store is asked again

export class Listing {
  /** `query`: URLSearchParams of the filter and the order; `onLoaded()` when there is more to show. */
  constructor(query, onLoaded) {
    Object.assign(this, { query, onLoaded });
    this.total = null;
    this.items = []; // sparse, by place
    this.name = "";
    this.queueReady = this.whole = true;
    this._asked = new Map(); // page -> a promise
    this._abort = new AbortController();
  }

  /** No longer wanted. */
  close() { this._abort.abort(); }

  at(place) { return this.items[place] ?? null; }

  /** Have the pictures from `first` up to `last` here. */
  async ensure(first, last) {
    const pages = [];
    for (let page = Math.floor(Math.max(0, first) / PAGE); page <= Math.floor(Math.max(0, last) / PAGE); page += 1) {
      if (this.total === null || page * PAGE < this.total) pages.push(this._page(page));
    }
    await Promise.all(pages);
  }

  /** Where a picture is in this list, loaded or not; -1 where it is not in it. */
  async find(id) {
    if (this.placeOf(id) >= 0) return this.placeOf(id);
    await this._page(0);
    const query = new URLSearchParams(this.query);
    query.set("listing", this.name);
    return (await ask(`${addressOf(id, "/place")}?${query}`, { signal: this._abort.signal })).place ?? -1;
  }

  placeOf(id) { return this.items.findIndex((item) => item?.id === id); }

  /** Put what a correction made of a picture into its line. */
  update(picture) {
    const item = this.items[this.placeOf(picture.id)];
    if (!item) return;
    const of = (status) => picture.annotations.filter((each) => each.status === status).length;
    Object.assign(item, { review: picture.review, kept: of("kept"), rejected: of("rejected") });
  }

  async _page(page) {
    if (page > 0 && !this.name) await this._page(0);
    if (!this._asked.has(page)) this._asked.set(page, this._load(page));
    try {
      await this._asked.get(page);
    } catch (error) {
      this._asked.delete(page);
      throw error;
    }
  }

  /** The answer, once the server has read its store. */
  async _askedUntilRead(path) {
    for (;;) {
      try {
        return await ask(path, { signal: this._abort.signal });
      } catch (error) {
        if (error.type !== "not_ready") throw error;
        await new Promise((resolve) => { setTimeout(resolve, AGAIN); });
      }
    }
  }

  async _load(page) {
    const query = new URLSearchParams(this.query);
    query.set("offset", page * PAGE);
    query.set("limit", PAGE);
    if (this.name) query.set("listing", this.name);
    const body = await this._askedUntilRead(`/v1/store/pictures?${query}`);
    this.name ||= body.listing;
    this.total = body.total;
    this.queueReady = body.queue_ready;
    this.whole &&= body.whole;
    body.pictures.forEach((picture, n) => { this.items[body.offset + n] = picture; });
    this.onLoaded();
  }
}
