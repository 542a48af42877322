"""HTML pages about a store, a run, or any sections. One file, no network, readable without JavaScript."""

from florence2.reporting.answer_section import answers_section, asks_of
from florence2.reporting.claims_section import claim
from florence2.reporting.html_page import Html, Section, element, escape, page, paragraph, save, table, tiles
from florence2.reporting.picture_cards import answer_card, cards, sample_card
from florence2.reporting.report import report
from florence2.reporting.stores import store_sections

__all__ = [
    "Html",
    "Section",
    "answer_card",
    "answers_section",
    "asks_of",
    "cards",
    "claim",
    "element",
    "escape",
    "page",
    "paragraph",
    "report",
    "sample_card",
    "save",
    "store_sections",
    "table",
    "tiles",
]
