// The page to browse and correct a store: filter, grid, one picture large. Parts know nothing of one another; this joins them.

import { addressOf, ask, line } from "./api.js";
import { Corrections } from "./corrections.js";
import { announce, fill, h } from "./dom.js";
import { Editor } from "./editor.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { Listing } from "./listing.js";
import { Palette, swatch } from "./palette.js";

const find = (id) => document.getElementById(id);
const PERSON = "florence2.person", SCOPE = "florence2.scope";
const KEYS = [
  ["The grid", [["← ↑ → ↓", "the picture"], ["Enter", "open it"], ["A", "accept it as it is"], ["/", "to the filters"]]],
  ["A picture", [["A", "accept: what is kept is right; on to the next"], ["→ ←", "the next picture, the one before"], ["C", "the labels that it is complete for"], ["Esc", "back to the grid"]]],
  ["An annotation", [["↓ ↑", "choose the next, the one before"], ["X", "reject it"], ["Y", "keep it"], ["1 – 9", "its label"], ["L", "any other label: type, Enter"], ["E", "edit its text"], ["Alt + arrows", "move it by a pixel; with Shift by ten"]]],
  ["A new one", [["drag", "a box; then 1 – 9, L, or Enter for the label last used"], ["G", "polygon: click its corners, Enter"], ["Q", "quad of a text: four clicks, then what is written"], ["M", "the model helps: drag roughly, or click a thing; Enter takes it"], ["Shift + drag, click", "the same once"], ["B", "boxes again"], ["Esc", "not after all"]]],
  ["Anything", [["U", "undo"], ["Shift + U", "redo"], ["V", "show what is rejected"], ["+ −", "zoom; Ctrl + wheel too"], ["?", "this"]]],
];

let store = null, listing = null;

const corrections = new Corrections({
  person: () => personName(),
  changed: (id) => {
    const picture = corrections.view(id);
    if (picture && listing) { listing.update(picture); grid.update(id); }
    editor.refresh(id);
  },
  saving: (count, trouble) => {
    find("saving").textContent = trouble ? `not saved yet: ${trouble}` : count ? "saving…" : "saved";
    find("saving").classList.toggle("trouble", Boolean(trouble));
    find("undo").disabled = !corrections.done.length && !count;
    find("redo").disabled = !corrections.undone.length;
  },
  refused: (error, id) => notice(line(error), id),
  entered: () => { filtersLater(); },
});
const palette = { current: null };
const grid = new Grid(find("grid"), {
  onOpen: (place) => open(place),
  onFocus: (place) => { const item = listing?.at(place); if (item) corrections.prefetch([item]); },
  onNeed: (first, last) => listing?.ensure(first, last).catch(showError),
});
const filters = new Filters(find("filters"), () => { remember(); list(); });
let editor = null;

// ---- the list ----

function list(place = 0) {
  listing?.close();
  const query = filters.query;
  query.set("order", find("order").value);
  const own = listing = new Listing(query, () => {
    if (own !== listing) return;
    find("count").textContent = `${own.total.toLocaleString("en")} ${own.total === 1 ? "picture" : "pictures"}`;
    find("queue-note").hidden = own.queueReady || find("order").value !== "queue";
    grid.draw();
  });
  grid.show(own, place);
  own.ensure(0, 0).then(() => {
    announce(find("live"), find("count").textContent);
    grid.draw();
    if (!own.queueReady) untilQueued(own).catch(() => {});
  }).catch(showError);
  if (store) filters.load().catch(showError);
}

/** List anew, unless somebody is at work in the list. */
function again() {
  if (!editor.isOpen && !grid.place && !find("grid").scrollTop) list();
  else filters.load().catch(showError);
}

/** Once the review order is there, take it, unless somebody is at work in the list. */
async function untilQueued(own) {
  for (let wait = 500; own === listing; wait = Math.min(5000, 2 * wait)) {
    await new Promise((resolve) => { setTimeout(resolve, wait); });
    if (own === listing && (await ask("/v1/store")).queue_ready) {
      if (own === listing) again();
      return;
    }
  }
}

let waiting = 0;

/** The counts of the filters after a correction; not for each of many. */
function filtersLater() {
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (find("correct").hidden) filters.load().catch(() => {}); }, 800);
}

/** Keep what is shown in the address. */
function remember() { history.replaceState(history.state, "", addressWith(location.hash)); }

/** The page's address: what is filtered by, and the picture that is open. */
function addressWith(hash) {
  const query = filters.query;
  if (find("order").value !== "queue") query.set("order", find("order").value);
  const text = query.toString();
  return `${location.pathname}${text ? `?${text}` : ""}${hash}`;
}

// ---- one picture ----

async function open(place) {
  await listing.ensure(place, place);
  if (!listing.at(place)) return;
  if (!history.state?.picture) history.pushState({ picture: true }, "");
  find("browse").hidden = true;
  find("correct").hidden = false;
  try {
    await editor.open(listing, place);
    find("annotations").focus();
  } catch (error) {
    showError(error);
  }
}

/** Open the picture that the address names; what is filtered by makes way where the picture is not among it. */
async function follow() {
  const id = named();
  if (editor.isOpen && editor.id === id) return;
  if (!history.state?.picture) history.replaceState({}, "", addressWith("")); // the grid is what one comes back to
  try {
    await show(id);
  } catch (error) {
    showError(error);
    if (!editor.isOpen) history.replaceState({}, "", addressWith(""));
  }
}

async function show(id) {
  let place = await listing.find(id);
  if (place < 0) {
    notice("The picture is not among those that were filtered by: the filter was taken away.");
    filters.clear();
    place = await listing.find(id);
  }
  if (place >= 0) await open(place);
}

/** The picture that the address names. */
function named() {
  const text = location.hash.slice(1);
  try { return decodeURIComponent(text); } catch { return text; }
}

function close() {
  if (history.state?.picture) history.back();
  else closed();
}

function closed() {
  editor.close();
  find("correct").hidden = true;
  find("browse").hidden = false;
  history.replaceState({}, "", addressWith(""));
  grid.focus(editor.place);
  find("grid").focus();
  filters.load().catch(showError);
}

// ---- dialogs ----

function personName() { return stored(PERSON); }

function dialogOpen() { return find("dialog").open; }

/** A line or a text; null where the dialog is left. */
function askText(title, text, rows = 4) {
  return new Promise((resolve) => {
    let answer = null;
    const field = h("textarea", { rows, "aria-label": title, id: "text-input", maxlength: 20000, spellcheck: "false" });
    field.value = text;
    const done = () => { answer = field.value; find("dialog").close(); };
    field.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); if (field.value.trim()) done(); } });
    fill(find("dialog"), h("h2", { id: "dialog-heading" }, title), field, h("p", { class: "small soft" }, "Enter takes it, Shift + Enter is a new line, Esc leaves it."));
    find("dialog").addEventListener("close", () => resolve(answer), { once: true });
    find("dialog").showModal();
    field.focus();
    field.select();
  });
}

/** Whether there is a name to enter corrections under; it is asked once. */
async function askPerson(again = false) {
  if (personName() && !again) return true;
  const name = await new Promise((resolve) => {
    let answer = null;
    const field = h("input", { type: "text", id: "person-input", value: personName(), maxlength: 100, autocomplete: "name", required: true });
    const form = h("form", { on: { submit: (event) => { event.preventDefault(); answer = field.value.trim(); if (answer) find("dialog").close(); } } },
      h("label", { class: "above" }, h("span", {}, "Your name"), field),
      h("p", { class: "small soft" }, "Each correction is entered under it, in the store, for whoever reads its history. This browser remembers it."),
      h("button", { class: "primary" }, "Go on"));
    fill(find("dialog"), h("h2", { id: "dialog-heading" }, "Who corrects?"), form);
    find("dialog").addEventListener("close", () => resolve(answer), { once: true });
    find("dialog").showModal();
    field.focus();
  });
  if (name) keep(PERSON, name);
  showPerson();
  return Boolean(personName());
}

function showPerson() { find("person").textContent = personName() || "Who are you?"; }

function chooseLabel(title, first) { return palette.current.choose(find("dialog"), title, first); }

/** The labels that a picture is complete for, chosen from a list. */
async function chooseComplete(picture) {
  const labels = [...new Set([...palette.current.labels, ...picture.complete])];
  const chosen = new Set(picture.complete);
  let saved = false;
  const dialog = find("dialog");
  const boxes = labels.map((label, n) => {
    const input = h("input", { type: "checkbox", id: `complete-${n}`, checked: chosen.has(label), on: { change: () => { input.checked ? chosen.add(label) : chosen.delete(label); } } });
    return h("li", {}, h("label", {}, input, swatch(label), h("span", { class: "name" }, label)));
  });
  const all = (on) => { labels.forEach((label) => (on ? chosen.add(label) : chosen.delete(label))); for (const box of dialog.querySelectorAll("li input")) box.checked = on; };
  fill(dialog, h("h2", { id: "dialog-heading" }, "Complete for"),
    h("p", { class: "small soft" }, "Every object of these labels on this picture is marked: another box of them would be wrong."),
    h("div", { class: "row" }, h("button", { type: "button", on: { click: () => all(true) } }, "All"), h("button", { type: "button", on: { click: () => all(false) } }, "None")),
    h("ul", { class: "choices" }, boxes),
    h("form", { method: "dialog", on: { submit: () => { saved = true; } } }, h("button", { class: "primary", id: "save-complete" }, "Save")));
  dialog.showModal();
  dialog.querySelector("input, button").focus();
  await new Promise((resolve) => { dialog.addEventListener("close", resolve, { once: true }); });
  const complete = [...chosen].filter((label) => !picture.complete.includes(label));
  const incomplete = picture.complete.filter((label) => !chosen.has(label));
  if (saved && (complete.length || incomplete.length) && await askPerson()) corrections.change(picture.id, { complete, incomplete });
}

function help() {
  fill(find("dialog"), h("h2", { id: "dialog-heading" }, "Keys"),
    h("div", { class: "keys" }, KEYS.map(([title, rows]) => h("table", {}, h("caption", {}, title), rows.map(([name, what]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, name)), h("td", {}, what)))))),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")));
  find("dialog").showModal();
}

function notice(text, id = null) {
  const box = h("div", { class: "error row" }, h("span", {}, text),
    id && h("button", { type: "button", class: "quiet small", on: { click: () => { box.remove(); show(id).catch(showError); } } }, "Look at it"),
    h("button", { type: "button", class: "quiet small end", "aria-label": "Dismiss", on: { click: () => box.remove() } }, "✕"));
  find("notices").append(box);
}

function showError(error) {
  if (error.name === "AbortError") return;
  notice(line(error));
}


/** The labels that accepting a picture says it is complete for. */
function scope() {
  const wanted = find("scope").value;
  if (wanted === "none") return [];
  const filtered = [...filters.chosen.label];
  return wanted === "filtered" && filtered.length ? filtered : [...palette.current.labels];
}

// ---- undo ----

async function step(name) {
  const id = await corrections[name]();
  if (!id) return;
  announce(find("live"), name === "undo" ? "undone" : "done again");
  const place = editor.isOpen && editor.id !== id ? await listing.find(id) : -1;
  if (place >= 0) await editor.go(place);
}

// ---- keys ----

function key(event) {
  if (dialogOpen() || event.isComposing) return;
  const typing = event.target.matches?.("input:not([type=checkbox], [type=range]), select, textarea");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing) return;
  const undo = (event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "z";
  if (undo || (event.key.toLowerCase() === "u" && !event.ctrlKey && !event.metaKey && !event.altKey)) {
    event.preventDefault();
    step(event.shiftKey ? "redo" : "undo").catch(showError);
    return;
  }
  const does = (editor.isOpen ? inEditor(event) : inGrid(event)) ?? (event.ctrlKey || event.metaKey || event.altKey ? null : { "?": help }[event.key]);
  if (does) { event.preventDefault(); Promise.resolve(does()).catch(showError); }
}

function inGrid(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  return { "/": () => { find("filters").querySelector("input, button")?.focus(); }, a: () => acceptInGrid(), A: () => acceptInGrid() }[event.key] ?? null;
}

/** Accept the picture of the grid that is marked, as it is. */
async function acceptInGrid() {
  const item = listing?.at(grid.place);
  if (!item || !(await askPerson())) return;
  const picture = await corrections.picture(item.id);
  const changes = picture.annotations.filter((each) => each.status === "kept").map((each) => ({ verdict: "kept", key: each.key }));
  if (changes.length || scope().length) corrections.change(item.id, { changes, complete: scope() });
  grid.focus(grid.place + 1);
}

function inEditor(event) {
  const { altKey, shiftKey, key: name } = event, command = event.ctrlKey || event.metaKey;
  const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[name];
  if (arrow && altKey && !command) return () => editor.nudge(...arrow.map((value) => value * (shiftKey ? 10 : 1)));
  if (command || altKey) return null;
  const digit = palette.current.numbered(name);
  if (digit) return () => editor.relabel(digit);
  const onButton = event.target.matches?.("button, summary, a, input");
  if (name === "Enter" && !onButton) return () => (editor.confirm() ? null : undefined);
  return {
    a: () => editor.accept(), ArrowRight: () => editor.step(1), ArrowLeft: () => editor.step(-1), PageDown: () => editor.step(1), PageUp: () => editor.step(-1),
    ArrowDown: () => editor.move(1), ArrowUp: () => editor.move(-1), x: () => editor.judge("rejected"), Delete: () => editor.judge("rejected"),
    y: () => editor.judge("kept"), l: () => editor.relabel(null), e: () => editor.editText(), c: () => chooseComplete(editor.picture),
    b: () => tool("box"), g: () => tool("polygon"), q: () => tool("quad"), m: () => (store?.model ? tool("model") : editor.prompt("No model is served: start the server with one, florence2 serve MODEL --store STORE.")),
    v: () => { find("rejected").checked = !find("rejected").checked; editor.withRejected = find("rejected").checked; editor.draw(); },
    "+": () => { editor.overlay.zoom *= 1.5; }, "=": () => { editor.overlay.zoom *= 1.5; }, "-": () => { editor.overlay.zoom /= 1.5; },
    Escape: () => { if (!editor.cancel()) editor.selected ? editor.select(null) : close(); },
  }[name.length === 1 ? name.toLowerCase() : name] ?? null;
}

function tool(name) {
  for (const button of document.querySelectorAll(".tool")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  editor.use(name);
}

// ---- the start ----

function stored(name) { try { return localStorage.getItem(name) ?? ""; } catch { return kept[name] ?? ""; } }

function keep(name, value) { try { localStorage.setItem(name, value); } catch { kept[name] = value; } }

const kept = {};

async function untilReady() {
  for (;;) {
    try {
      return await ask("/v1/store");
    } catch (error) {
      if (error.status !== 503) throw error;
      if (listing?.total === null) find("count").textContent = `${error.message}…`;
      await new Promise((resolve) => { setTimeout(resolve, 200); });
    }
  }
}

/** The pictures as soon as they can be paged through; what needs the annotations once they are read. */
async function begin() {
  showPerson();
  const query = new URLSearchParams(location.search);
  filters.read(query);
  if (query.get("order") === "store") find("order").value = "store";
  palette.current = new Palette(find("palette"), (label) => editor.relabel(label).catch(showError));
  const parts = { stage: find("stage"), annotations: find("annotations"), detail: find("detail"), coverage: find("coverage"), heading: find("picture-heading"), prompt: find("prompt"), live: find("live") };
  editor = new Editor(parts, corrections, palette.current, {
    onPlace: placed, askPerson, askText, chooseLabel, chooseComplete, scope,
    assist: (id, body) => ask(addressOf(id, "/assist"), { json: body }),
  });
  fill(find("scope"), h("option", { value: "all" }, "all labels"), h("option", { value: "filtered" }, "the labels filtered by"), h("option", { value: "none" }, "no label"));
  find("scope").value = stored(SCOPE) || "all";
  list();
  find("grid").focus();
  try {
    store = await untilReady();
  } catch (error) {
    showError(error);
    return;
  }
  document.title = `${store.name} · Florence-2`;
  find("store-name").textContent = store.name;
  find("store-size").textContent = `${store.pictures.toLocaleString("en")} pictures, ${store.annotations.toLocaleString("en")} annotations`;
  palette.current.take(store.labels, store.name);
  document.querySelector("[data-tool=model]").hidden = find("try-link").hidden = !store.model;
  if (!listing.whole || listing.total === null) again();
  else if (!filters.counts) filters.load().catch(showError);
  if (named()) await follow();
  document.body.dataset.ready = "true";
}

function placed(place, took) {
  document.body.dataset.took = Math.round(took);
  document.body.dataset.picture = editor.id;
  grid.place = place;
  history.replaceState({ picture: true }, "", addressWith(`#${encodeURIComponent(editor.id)}`));
}

function listen() {
  document.addEventListener("keydown", key);
  window.addEventListener("popstate", () => {
    if (named()) follow();
    else if (!find("correct").hidden) closed();
  });
  window.addEventListener("beforeunload", (event) => { if (corrections.underWay) event.preventDefault(); });
  find("order").addEventListener("change", () => { remember(); list(); });
  find("tile").addEventListener("input", () => grid.resize(find("tile").valueAsNumber));
  find("person").addEventListener("click", () => askPerson(true));
  find("help-button").addEventListener("click", help);
  find("back").addEventListener("click", close);
  find("previous").addEventListener("click", () => editor.step(-1).catch(showError));
  find("next").addEventListener("click", () => editor.step(1).catch(showError));
  find("accept").addEventListener("click", () => editor.accept().catch(showError));
  find("undo").addEventListener("click", () => step("undo").catch(showError));
  find("redo").addEventListener("click", () => step("redo").catch(showError));
  find("rejected").addEventListener("change", () => { editor.withRejected = find("rejected").checked; editor.draw(); });
  find("scope").addEventListener("change", () => keep(SCOPE, find("scope").value));
  find("larger").addEventListener("click", () => { editor.overlay.zoom *= 1.5; });
  find("smaller").addEventListener("click", () => { editor.overlay.zoom /= 1.5; });
  for (const button of document.querySelectorAll(".tool")) button.addEventListener("click", () => tool(button.dataset.tool));
}

listen();
begin();
