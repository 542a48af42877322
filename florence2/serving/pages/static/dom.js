// Elements made in code. Every text becomes a text node, so that what a model or a file says is never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("button", {class: "quiet", disabled: true, on: {click: run}}, "Run")`. Children: nodes, texts, null. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

/** Say something to who cannot see the page, once it has changed; `element` is a live region. */
export function announce(element, text) {
  element.textContent = "";
  setTimeout(() => { element.textContent = text; }, 50);
}

/** Put text on the clipboard; where the browser allows no clipboard (plain HTTP from another machine), by selection. */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { /* not allowed here: the other way */ }
  }
  const area = h("textarea", { class: "out-of-sight", "aria-hidden": "true", readonly: true });
  area.value = text;
  const before = document.activeElement;
  (before?.closest("dialog") ?? document.body).append(area); // what lies outside an open dialog cannot be selected
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus?.();
  return done;
}

/** Make these the element's children, touching none that stays where it is: of thousands only a few change at a time. */
export function arrange(element, children) {
  let at = element.firstChild;
  for (const child of children) {
    if (at && at !== child && at.nextSibling === child) {
      const moved = at;
      at = child;
      moved.remove();
    }
    if (at === child) at = at.nextSibling;
    else element.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Elements by key, made anew where `sign` is another: `make()` is asked for those alone. Forgets what was not asked for. */
export class Elements {
  constructor() {
    this._held = new Map();
    this._asked = new Map();
  }

  get(key, sign, make) {
    const held = this._held.get(key);
    const one = held?.sign === sign ? held : { sign, element: make() };
    this._asked.set(key, one);
    return one.element;
  }

  /** All that is shown was asked for. */
  done() { [this._held, this._asked] = [this._asked, new Map()]; }
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "value" || name === "checked") {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
