// Optional comfort: tables sort by a click on their header, pictures open large by a click, cards are searched,
// filtered and leafed through.
for (const th of document.querySelectorAll("th")) {
  th.classList.add("sorts");
  th.addEventListener("click", () => {
    const up = th.getAttribute("aria-sort") !== "descending", body = th.closest("table").tBodies[0];
    for (const other of th.parentNode.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "descending" : "ascending");
    const column = [...th.parentNode.children].indexOf(th);
    const key = row => row.children[column] ? row.children[column].textContent : "";
    const value = text => parseFloat(text.replace(/,/g, ""));
    const order = (a, b) => {
      const x = value(key(a)), y = value(key(b));
      return isNaN(x) || isNaN(y) ? key(b).localeCompare(key(a)) : y - x;
    };
    body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
  });
}

const dialog = document.createElement("dialog");
document.body.append(dialog);
dialog.addEventListener("click", () => dialog.close());
const CARD = 300; // CSS pixels that labels are drawn for, as picture_cards.py has it
document.addEventListener("click", event => {
  const picture = event.target.closest("svg.picture");
  if (!picture || dialog.contains(picture)) return;
  const large = picture.cloneNode(true);
  dialog.replaceChildren(large);
  dialog.showModal();
  const shrink = CARD / Math.max(large.getBoundingClientRect().width, large.getBoundingClientRect().height, CARD);
  for (const part of large.querySelectorAll("text, path"))
    for (const name of ["font-size", "stroke-width"])
      if (part.hasAttribute(name)) part.setAttribute(name, part.getAttribute(name) * shrink * (name === "font-size" ? 1.3 : 1));
});
for (const picture of document.querySelectorAll("svg.picture")) picture.style.cursor = "zoom-in";

for (const board of document.querySelectorAll(".board")) {
  const grid = board.querySelector(".cards"), first = [...grid.children], chunks = [...board.querySelectorAll(".chunk")];
  const hidden = board.querySelector(".index"), facets = text => text ? text.split(";").map(f => f.split(",")) : [];
  const index = hidden ? JSON.parse(hidden.textContent) : {
    per: Math.max(first.length, 1),
    names: first.map(card => card.dataset.name || ""),
    items: first.map(card => [...card.querySelectorAll("li[data-f], p[data-f], pre[data-f]")].map(e => e.dataset.f).join(";")),
  };
  const find = name => board.querySelector(name), kept = new Map();
  const card = n => {
    const k = Math.floor(n / index.per);
    if (!k) return first[n];
    if (!kept.has(k)) {
      if (kept.size > 8) kept.delete(kept.keys().next().value);
      kept.set(k, JSON.parse(chunks[k - 1].textContent));
    }
    const template = document.createElement("template");
    template.innerHTML = kept.get(k)[n - k * index.per]; // escaped where the page was written; its policy runs nothing
    return template.content.firstElementChild;
  };
  let place = 0, list = [];
  const value = name => { const field = find(name); return field ? field.value : ""; };
  const wanted = () => ({
    name: value(".by-name").toLowerCase(), label: value(".by-label"), source: value(".by-source"),
    reason: value(".by-reason"), least: Math.round(100 * value(".by-least")), most: Math.round(100 * value(".by-most")),
    status: ["kept", "superseded", "rejected"].map(s => find(".show-" + s).checked),
  });
  const narrow = w => w.label !== "" || w.source !== "" || w.reason !== "" || w.least > 0 || w.most < 100;
  const fits = (f, w) => w.status[f[2]] && (w.label === "" || f[0] === w.label) && (w.source === "" || f[1] === w.source)
    && (w.reason === "" || f[3] === w.reason)
    && ((w.least <= 0 && w.most >= 100) || (+f[4] >= Math.max(w.least, 0) && +f[4] <= w.most));
  const show = () => {
    const w = wanted(), pages = Math.max(1, Math.ceil(list.length / index.per));
    place = Math.min(place, pages - 1);
    grid.replaceChildren(...list.slice(place * index.per, (place + 1) * index.per).map(card));
    for (const item of grid.querySelectorAll("[data-f]"))
      item.classList.toggle("off", narrow(w) && !fits(item.dataset.f.split(","), w));
    for (const picture of grid.querySelectorAll("svg.picture")) picture.style.cursor = "zoom-in";
    const total = index.names.length;
    find(".found").textContent = list.length === total ? `${total.toLocaleString("en")} pictures`
      : `${list.length.toLocaleString("en")} of ${total.toLocaleString("en")} pictures`;
    find(".pager").hidden = pages < 2;
    find(".place").textContent = `page ${place + 1} of ${pages}`;
    find(".previous").disabled = place === 0;
    find(".next").disabled = place >= pages - 1;
  };
  const filter = () => {
    const w = wanted();
    list = [];
    for (let n = 0; n < index.names.length; n++)
      if ((!w.name || index.names[n].toLowerCase().includes(w.name))
        && (!narrow(w) || facets(index.items[n]).some(f => fits(f, w)))) list.push(n);
    place = 0;
    show();
  };
  if (!find(".filters")) continue;
  find(".filters").hidden = false;
  find(".filters").addEventListener("input", event => {
    if (event.target.matches(".by-reason") && event.target.value !== "") // what has a reason is not kept
      for (const status of ["superseded", "rejected"]) find(".show-" + status).checked = true;
    filter();
  });
  find(".switches").addEventListener("input", filter);
  const leaf = step => { place += step; show(); board.scrollIntoView(); };
  find(".previous").addEventListener("click", () => leaf(-1));
  find(".next").addEventListener("click", () => leaf(1));
  filter();
}
