"""A self-contained HTML page: its frame, tables, tiles. Knows HTML and nothing of stores or models.

What is `Html` is safe to insert; every plain string is escaped on its way in, for what a page shows may come from
pictures of strangers. The page asks nothing of the network (its policy forbids it) and reads well without JavaScript.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Union

from florence2.atomic_files import check_replaceable, write_atomic
from florence2.drawing.html_figure import escaped


class Html(str):
    """A piece of HTML that needs no escaping."""


Cell = Union[Html, str, int, float, None]

DOCTYPE = "<!doctype html>"
LONGEST = 120  # letters of a cell of a table
VOID = ("input",)  # elements that hold nothing


@dataclass(frozen=True)
class Section:
    """A titled part of a page; `lead` is a sentence that says what one sees."""

    title: str
    body: Html
    lead: str = ""


def page(title: str, *sections: Section, subtitle: str = "") -> Html:
    """The whole document."""
    style, script = _asset("page.css"), _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    links = join(element("a", section.title, href=f"#{_slug(section.title)}") for section in sections)
    return Html(
        f'{DOCTYPE}\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{element("title", title)}<link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f"<header>{element('h1', title)}{element('p', subtitle) if subtitle else ''}</header>"
        f"{element('nav', links) if len(sections) > 1 else ''}"
        f"<main>{''.join(_section(section) for section in sections)}</main>"
        f"<script>{script}</script></body></html>\n"
    )


def check_page(out: str | Path) -> Path:
    """The path of a page to write; FileExistsError where something else than an earlier page is there."""
    check_replaceable(out, DOCTYPE.encode(), "a page, such as page.html")
    return Path(out)


def save(document: Html, out: str | Path) -> Path:
    """Write a page whole or not at all."""
    out = check_page(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, document.encode("utf-8", "replace"))
    return out


def escape(text: object) -> Html:
    """Any text as HTML; control characters and broken Unicode become a visible mark."""
    return text if isinstance(text, Html) else Html(escaped(str(text)))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """<tag name="value">content</tag>; class_ is class, content and values are escaped, False and None left out."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{''.join(escape(part) for part in content)}</{tag}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """Pieces one after the other."""
    return Html(escape(between).join(escape(part) for part in parts))


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str = "") -> Html:
    """A table; numbers are right-aligned, with the digits that people read."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    right = [bool(cells) and all('class="number"' in row[i][:20] for row in cells) for i in range(len(header))]
    head = (element("th", name, scope="col", class_="number" if r else None) for name, r in zip(header, right))
    body = join(element("tr", *row) for row in cells)
    above = element("caption", caption) if caption else ""
    return element("div", element("table", above, element("thead", element("tr", *head)), element("tbody", body)),
                   class_="scroll")  # fmt: skip


def number(value: float) -> str:
    """Such as 1,204 or 0.917."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def tiles(figures: Iterable[tuple[str, Cell, str]]) -> Html:
    """Large figures side by side: name, value, remark."""
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", _shown(value)), element("dd", remark, class_="remark"))
            for name, value, remark in figures
        ),
        class_="tiles",
    )


def shares(**counts: int) -> Html:
    """A thin bar of parts, each in its class's colour, with the numbers on hover."""
    total = sum(counts.values()) or 1
    parts = (
        element("i", class_=name, style=f"width:{100 * count / total:.2f}%") for name, count in counts.items() if count
    )
    summary = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return element("span", *parts, class_="shares", title=summary, role="img", aria_label=summary)


def paragraph(text: str) -> Html:
    """A paragraph of plain text."""
    return element("p", text)


def _section(section: Section) -> Html:
    lead = element("p", section.lead, class_="lead") if section.lead else ""
    return element("section", element("h2", section.title), lead, section.body, id=_slug(section.title))


def _cell(cell: Cell) -> Html:
    is_number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    if isinstance(cell, str) and not isinstance(cell, Html) and len(cell) > LONGEST:
        return element("td", f"{cell[: LONGEST - 1]}\u2026", title=cell[:1000])
    return element("td", _shown(cell), class_="number" if is_number else None)


def _shown(cell: Cell) -> object:
    if cell is None:
        return "\u2013"
    return number(cell) if isinstance(cell, (int, float)) and not isinstance(cell, bool) else cell


def _slug(title: str) -> str:
    return re.sub("[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def _asset(name: str) -> str:
    return resources.files("florence2.reporting").joinpath(name).read_text(encoding="utf-8")
