// Pictures as the server has them, and a person's changes on their way there. What is done shows at once; each change is
// sent in its turn and stands in the store when the server has answered. Knows no element of the page.

import { addressOf, ask, ServerError } from "./api.js";

const KEPT = 60; // pictures whose annotations are held
const IMAGES = 10; // pictures whose pixels are held, decoded
const WAITS = [1000, 2000, 4000, 8000]; // ms until a change is sent again where the server cannot be reached

export class Corrections {
  /** Listeners: person() -> the name, changed(id), saving(n under way, trouble), refused(error, id), entered(id, op). */
  constructor(listeners) {
    this.listeners = listeners;
    this.held = new Map(); // id -> {base, keys, pending, loading}
    this.images = new Map(); // id -> a promise of an image that is decoded
    this.done = []; // what can be undone, in the order in which it was done: {id, name}, a name once it has one
    this.undone = [];
    this.underWay = 0;
    this._chains = new Map(); // picture -> the promise of its last change
    this._key = 0;
  }

  // ---- reading ----

  /** The picture with what was done to it so far, from the server or from here. */
  async picture(id) {
    await this._load(id);
    return this.view(id);
  }

  /** The picture as it shows now, changes included that are still under way; null where it is not here yet. */
  view(id) {
    const one = this.held.get(id);
    return one?.base ? one.pending.reduce(applied, withKeys(one)) : null;
  }

  /** Its pixels, decoded, so that they show at once. */
  image(picture) {
    const key = `${picture.id} ${picture.version}`;
    if (!this.images.has(key)) {
      const image = new Image();
      image.src = addressOf(picture.id, `/image?v=${picture.version}`);
      const decoded = image.decode().then(() => image);
      decoded.catch(() => this.images.delete(key));
      this.images.set(key, decoded);
      while (this.images.size > IMAGES) this.images.delete(this.images.keys().next().value);
    }
    return this.images.get(key);
  }

  /** Have these ready: their annotations and their pixels. */
  prefetch(summaries) {
    for (const one of summaries) {
      this._load(one.id).catch(() => {});
      this.image(one).catch(() => {});
    }
  }

  /** Ask the server again, as others may have changed it. */
  async refresh(id) {
    const one = this.held.get(id);
    if (one) one.loading = null;
    await this._load(id, true);
    this.listeners.changed(id);
  }

  async _load(id, anew = false) {
    const one = this.held.get(id) ?? { base: null, keys: new Map(), pending: [], loading: null };
    this.held.delete(id);
    this.held.set(id, one);
    for (const [other, each] of this.held) {
      if (this.held.size <= KEPT) break;
      if (!each.pending.length && other !== id) this.held.delete(other);
    }
    if (one.base && !anew) return;
    one.loading ??= ask(addressOf(id)).then((body) => { this._take(one, body); }).finally(() => { one.loading = null; });
    await one.loading;
  }

  _take(one, body) {
    if (one.base && body.snapshot < one.base.snapshot) return;
    one.base = body;
    for (const annotation of body.annotations) {
      if (!one.keys.has(annotation.ann_id)) one.keys.set(annotation.ann_id, this.newKey());
    }
  }

  newKey() {
    this._key += 1;
    return `k${this._key}`;
  }

  // ---- changing ----

  /**
   * Do something to a picture: `changes` are [{verdict, key, label?, text?, box?, quad?, polygons?, kind?}], a key being
   * that of an annotation in view; `complete` and `incomplete` are labels.
   */
  change(id, { changes = [], complete = [], incomplete = [] }) {
    const op = { changes, complete, incomplete, person: this.listeners.person() };
    const one = this.held.get(id);
    one.pending.push(op);
    this.undone = [];
    const entry = { id, name: "" };
    this.done.push(entry);
    this.listeners.changed(id);
    return this._queue(id, async () => {
      const body = await this._send(id, () => this._body(id, op));
      this._answered(id, op, body);
      if (body) entry.name = body.name;
      else this.done = this.done.filter((each) => each !== entry);
    });
  }

  /** Leave all as it was before the last change; the picture that it was about, or null. */
  undo() { return this._step("done", "undone"); }

  /** And back again. */
  redo() { return this._step("undone", "done"); }

  async _step(from, to) {
    await Promise.all(this._chains.values()); // what is under way may be what is meant
    const last = this[from].pop();
    if (!last) return null;
    await this._load(last.id);
    await this._queue(last.id, async () => {
      const person = this.listeners.person();
      const body = await this._send(last.id, () => ({ person, image_id: last.id, undoes: last.name }));
      this._answered(last.id, null, body);
      if (body) this[to].push({ id: last.id, name: body.name });
    });
    return last.id;
  }

  _queue(id, work) {
    this.underWay += 1;
    this.listeners.saving(this.underWay, "");
    const chain = (this._chains.get(id) ?? Promise.resolve()).then(work).finally(() => {
      this.underWay -= 1;
      if (this._chains.get(id) === chain) this._chains.delete(id);
      this.listeners.saving(this.underWay, "");
    });
    this._chains.set(id, chain);
    return chain;
  }

  /** What the server is sent: annotations by the ids and verdicts that they have by now. */
  _body(id, op) {
    const one = this.held.get(id);
    const byKey = new Map(one.base.annotations.map((each) => [one.keys.get(each.ann_id), each]));
    const changes = op.changes.map(({ key, ...change }) => {
      if (change.verdict === "added") return change;
      const annotation = byKey.get(key);
      return { ...change, ann_id: annotation?.ann_id ?? "", seen: annotation?.seen ?? "" };
    });
    return { person: op.person, image_id: id, changes, complete: op.complete, incomplete: op.incomplete };
  }

  /** The answer; null where the server refused, which the listener is told. It is sent until the server is reached. */
  async _send(id, makeBody) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await ask("/v1/store/corrections", { json: makeBody() });
      } catch (error) {
        if (!(error instanceof ServerError) || (error.status && ![401, 403, 408, 500, 503].includes(error.status))) {
          this.listeners.refused(error, id);
          return null;
        }
        this.listeners.saving(this.underWay, error.message);
        const wait = 1000 * Number(error.retryAfter) || WAITS[Math.min(attempt, WAITS.length - 1)];
        await new Promise((resolve) => { setTimeout(resolve, wait); });
      }
    }
  }

  _answered(id, op, body) {
    const one = this.held.get(id);
    one.pending = one.pending.filter((each) => each !== op);
    if (!body) {
      this.refresh(id).catch(() => {});
      return;
    }
    op?.changes.forEach(({ key }, n) => { if (key) this._rename(one, key, body.ann_ids[n]); });
    this._take(one, body.picture);
    this.listeners.changed(id);
    this.listeners.entered(id, op);
  }

  /** What was an annotation under this key is the annotation of another id now. */
  _rename(one, key, annId) {
    for (const [known, each] of one.keys) if (each === key && known !== annId) one.keys.set(known, this.newKey());
    one.keys.set(annId, key);
  }
}

function withKeys(one) {
  const annotations = one.base.annotations.map((each) => ({ ...each, key: one.keys.get(each.ann_id) }));
  return { ...one.base, annotations };
}

/** A picture after a change that is still under way. */
function applied(picture, op) {
  const by = new Map(op.changes.filter((change) => change.verdict !== "added").map((change) => [change.key, change]));
  const person = { kind: "human", name: op.person, version: "", round: 0 };
  const annotations = picture.annotations.map((each) => {
    const change = by.get(each.key);
    if (!change) return each;
    if (change.verdict !== "changed") return { ...each, status: change.verdict };
    const { verdict, key, ...fields } = change;
    const shape = fields.box || fields.quad || fields.polygons ? { box: null, quad: [], polygons: [], mask: false } : {};
    return { ...each, ...shape, ...fields, status: "kept", score: null, source: person, history: [] };
  });
  for (const { verdict, ...fields } of op.changes.filter((change) => change.verdict === "added")) {
    annotations.push({
      ann_id: "", kind: "object", label: "", text: "", box: null, quad: [], polygons: [], mask: false, refines: "", score: null,
      source: person, status: "kept", seen: "", history: [], ...fields,
    });
  }
  const complete = [...new Set([...picture.complete, ...op.complete])].filter((label) => !op.incomplete.includes(label)).sort();
  return { ...picture, annotations, complete, review: op.complete.length ? "complete" : picture.review === "open" ? "touched" : picture.review };
}
