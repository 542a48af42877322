// The page to try the model: a picture, what is asked about it, the answers. Parts know nothing of one another; this joins them.

import { Answers, errorBox } from "./answers.js";
import { ask, ServerError } from "./api.js";
import { Asks } from "./asks.js";
import { announce, fill, h } from "./dom.js";
import { Overlay } from "./overlay.js";

const find = (id) => document.getElementById(id);
const SAMPLES = 1000;
const FIRST = ["OD", "CAPTION"];
const KEYS = [
  ["Ctrl + Enter", "ask"], ["R", "draw a region; Esc gives it up"], ["O", "choose a picture"], ["S", "another drawn sample"],
  ["Ctrl + V", "paste a picture"], ["+ −", "zoom; Ctrl + wheel too"], ["← →", "the next answer, on its tab"],
  ["↑ ↓", "the next region, in the list; Space hides it"], ["?", "this"],
];

let picture = null; // {blob, name, url (of a drawn sample), base64 (a promise)}
let model = "florence2", running = null, asks = null, size = [0, 0], taking = Promise.resolve();

const overlay = new Overlay(find("stage"), {
  onSelect: (id) => answers.chosen(id === overlay.selected ? null : id),
  onHover: (id) => answers.pointed(id),
  onDraw: (box) => { drawMode(false); takeRegion(box); },
});
const answers = new Answers(find("answers"), overlay, find("live"));

// ---- the picture ----

/** Take a picture, one after another: the last one given is the one that stays. */
function take(...picked) {
  taking = taking.then(() => taken(...picked)).catch(showError);
  return taking;
}

async function taken(blob, name, url = null) {
  if (!blob.type.startsWith("image/") && blob.type) {
    showError(new ServerError(0, { type: "not_an_image", message: `${name}: expected a picture, got ${blob.type}` }));
    return;
  }
  stop();
  picture = { blob, name, url, base64: asBase64(blob) };
  answers.clear("Nothing has been asked about this picture yet.");
  asks?.setRegion(null);
  overlay.mark(null);
  fill(find("error"));
  find("took").textContent = "";
  const shown = URL.createObjectURL(blob);
  try {
    size = await overlay.open(shown, `The picture ${name}`);
    find("picture-name").textContent = `${name}, ${size[0]} × ${size[1]} pixels`;
  } catch {
    size = [0, 0];
    overlay.blank([640, 480]);
    find("picture-name").textContent = `${name}: this browser cannot show it. The server may read it all the same: what is found is drawn on an empty field.`;
  } finally {
    URL.revokeObjectURL(shown);
  }
  changed();
}

/** The picture or the region is another one: ask, where the reader wants that. */
function changed() {
  if (!find("at-once").checked || !asks?.chosen.length || (asks.takesRegion && !asks.region)) return;
  stop();
  run();
}

function asBase64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new ServerError(0, { type: "unreadable", message: "the picture cannot be read; choose it again" }));
    reader.readAsDataURL(blob);
  });
}

async function sample() {
  const number = Math.floor(Math.random() * SAMPLES), url = `/sample/${number}`;
  try {
    const response = await fetch(new URL(url, location.origin));
    if (!response.ok) throw new ServerError(response.status, (await response.json()).error);
    await take(await response.blob(), `sample-${number}.png`, url);
  } catch (error) {
    showError(error);
  }
}

function takeFiles(files) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (file) take(file, file.name || "picture.png");
}

// ---- the region ----

function drawMode(on) {
  if (on && !size[0]) {
    showError(new ServerError(0, { type: "unknown_size", message: "the picture's size is not known before its first answer; type the region, or ask about the whole picture first" }));
    return;
  }
  overlay.drawing = on;
  find("draw").setAttribute("aria-pressed", String(on));
}

function takeRegion(box) {
  asks.setRegion(box);
  overlay.mark(asks.region);
  announce(find("live"), `Region ${asks.region.map(Math.round).join(", ")}`);
  changed();
}

// ---- asking ----

async function run() {
  if (running) return;
  fill(find("error"));
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const wanted = picture ? asks.asks() : [];
  if (!picture || !wanted.length) {
    showError(new ServerError(0, { type: "nothing_asked", message: picture ? "pick a task" : "choose a picture first" }));
    return;
  }
  const asked = { server: location.origin, model, picture: { name: picture.name, url: picture.url }, asks: wanted, options: asks.options() };
  const own = running = new AbortController();
  busy(true);
  const start = performance.now();
  try {
    const json = { image: await picture.base64, asks: wanted, ...asked.options };
    const found = await ask("/v1/predict", { json, signal: own.signal });
    if (running !== own) return;
    sized(found.answers[0].size_wh);
    answers.show(found.answers, asked);
    find("took").textContent = `${Math.round(performance.now() - start)} ms`;
    const heading = find("answers-heading");
    if (heading.getBoundingClientRect().bottom > innerHeight - 120) heading.scrollIntoView({ block: innerWidth > 860 ? "start" : "nearest" });
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
  } finally {
    if (running === own) stop();
  }
}

/** Regions are in pixels of the picture as the server has it, which a browser may show otherwise turned, or not at all. */
function sized(servers) {
  if (!size[0]) {
    size = servers;
    overlay.blank(size);
  } else if (size[0] !== servers[0] || size[1] !== servers[1]) {
    showError(new ServerError(0, {
      type: "other_size",
      message: `the server has the picture at ${servers.join(" × ")} pixels, this browser at ${size.join(" × ")}: what is drawn may be off`,
    }));
  }
}

function stop() {
  running?.abort();
  running = null;
  busy(false);
}

function busy(on) {
  find("run").disabled = on;
  find("stop").hidden = !on;
  find("answers").setAttribute("aria-busy", String(on));
  if (on) find("took").textContent = "asking…";
  else if (find("took").textContent === "asking…") find("took").textContent = "";
}

function showError(error) {
  fill(find("error"), errorBox(error));
  const field = asks?.fieldOf(error.field);
  if (field) {
    if (field.closest("details")) field.closest("details").open = true;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", "error-text");
    field.focus();
  }
}

// ---- the start ----

async function untilReady() {
  for (;;) {
    try {
      await ask("/readyz");
      find("state").textContent = "";
      return;
    } catch (error) {
      find("state").textContent = error.status === 503 ? `${error.message}…` : error.message;
      await new Promise((resolve) => { setTimeout(resolve, 1000); });
    }
  }
}

async function begin() {
  await untilReady();
  try {
    const [table, models] = await Promise.all([ask("/v1/tasks"), ask("/v1/models")]);
    const own = models.data[0];
    model = own?.id ?? model;
    find("model").textContent = [model, own?.device, own?.dtype].filter(Boolean).join(" · ");
    find("drawings").hidden = !own?.drawings_only;
    const parts = { tasks: find("tasks"), fields: find("fields"), options: find("option-fields") };
    asks = new Asks(parts, table, { onRegion: (box) => overlay.mark(box), onChange: () => fill(find("error")) });
    asks.choose(FIRST);
    document.body.dataset.ready = "true";
  } catch (error) {
    showError(error);
  }
}

function listen() {
  find("choose").addEventListener("click", () => find("file").click());
  find("file").addEventListener("change", (event) => { takeFiles(event.target.files); event.target.value = ""; });
  find("sample").addEventListener("click", sample);
  find("draw").addEventListener("click", () => drawMode(!overlay.drawing));
  find("larger").addEventListener("click", () => { overlay.zoom *= 1.5; });
  find("smaller").addEventListener("click", () => { overlay.zoom /= 1.5; });
  find("ask").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  find("stop").addEventListener("click", stop);
  find("help-button").addEventListener("click", help);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) { event.preventDefault(); takeFiles(files); }
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) takeFiles(event.dataTransfer.files);
  });
  document.addEventListener("keydown", key);
}

function key(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    run();
    return;
  }
  const typing = event.target.matches?.("input:not([type=checkbox], [type=range]), select, textarea") || find("help").open;
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {
    r: () => drawMode(!overlay.drawing), o: () => find("file").click(), s: sample, "?": help, Escape: () => drawMode(false),
    "+": () => { overlay.zoom *= 1.5; }, "=": () => { overlay.zoom *= 1.5; }, "-": () => { overlay.zoom /= 1.5; },
  }[event.key];
  if (does) { event.preventDefault(); does(); }
}

function help() {
  fill(find("help"), h("h2", { id: "help-heading" }, "Keys"),
    h("table", { class: "keys" }, KEYS.map(([name, what]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, name)), h("td", {}, what)))),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")));
  find("help").showModal();
}

listen();
begin();
sample();
