// Optional comfort: tables sort by a click on their header, pictures open large by a click.
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
for (const picture of document.querySelectorAll("svg.picture")) {
  picture.style.cursor = "zoom-in";
  picture.addEventListener("click", () => {
    dialog.replaceChildren(picture.cloneNode(true));
    dialog.showModal();
  });
}
