"""The rules that judge annotations: one literal table, one YAML to change them, one Filter a rule.

A rule judges every item it concerns as kept or rejected, with the measured value and the threshold it is compared
with. What people made (human, import) is judged by no rule. Nothing is removed: verdicts are appended.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from florence2 import box_rules
from florence2.engine.operator import Spec
from florence2.formats import documents
from florence2.records import CAPTION_DETAILS, Decision, Sample
from florence2.structuring import structure


@dataclass(frozen=True)
class Rule:
    """One row: its function, the word a rejection is counted under, its settings, and the unit of its value."""

    function: str  # module:function of (sample, settings) -> Iterator[Decision]
    reason: str
    unit: str
    settings: Mapping[str, Any]
    says: str  # what it rejects


_REGIONS = "florence2.engine.curation.filters.region_rules"
_PHRASES = "florence2.engine.curation.filters.phrase_rules"
_TEXTS = "florence2.engine.curation.filters.text_rules"
_PARSER = {"parser": "auto"}

RULES: Mapping[str, Rule] = MappingProxyType(
    {  # in the order in which they run
        "region_score": Rule(
            f"{_REGIONS}:score", "low_score", "score",
            {"min": 0.4, "sources": {}, "labels": {}},
            "regions below the floor of their label, else of their source, else `min`",
        ),
        "region_size": Rule(
            f"{_REGIONS}:size", "too_small", "pixels of the shorter side", {"min": 3.0},
            "regions too thin to be seen",
        ),
        "region_aspect": Rule(
            f"{_REGIONS}:aspect", "odd_aspect", "longer side / shorter side", {"max": 20.0, "text": 80.0},
            "needles: objects above `max`, lines of text above `text`",
        ),
        "whole_image": Rule(
            f"{_REGIONS}:whole_image", "whole_image", "share of the picture",
            {"max": box_rules.WHOLE_IMAGE, "sure": 0.6},
            "objects whose box is nearly the whole picture, where their score is below `sure`",
        ),
        "nms": Rule(
            f"{_REGIONS}:nms", "overlap", "IoU",
            {"max": box_rules.NMS_IOU, "per_label": True, "soft": False, "sigma": 0.5, "floor": 0.2},
            "of one source's overlapping boxes, all but the best; soft: those whose decayed score is below `floor`",
        ),
        "crowd": Rule(
            f"{_REGIONS}:crowd", "crowd", "regions of one label and source", {"max": 60, "text": 300, "sure": 0.4},
            "regions beyond the best `max` of their label (`text`: lines of text) whose score is below `sure`",
        ),
        "phrase_span": Rule(
            f"{_PHRASES}:span", "not_in_text", "share of spans that hold", {"min": 1.0},
            "phrases that are not what their spans cut from their text, or whose text was rejected",
        ),
        "phrase_blacklist": Rule(
            f"{_PHRASES}:blacklist", "blacklisted", "words", {"also": []},
            "pronouns and abstract words, which name nothing one can point at",
        ),
        "phrase_score": Rule(
            f"{_PHRASES}:score", "low_score", "score", {"min": 0.3, "box": 0.3, "sources": {"student": 0.9}},
            "phrases below the floor of their source, else `min`, or all of whose boxes are below `box`",
        ),
        "too_long": Rule(
            f"{_TEXTS}:length", "too_long", "words", {"max": {"brief": 40, "detailed": 120, "more_detailed": 400}},
            "texts longer than their kind",
        ),
        "markup": Rule(
            f"{_TEXTS}:markup", "markup", "marks", {"max": 0},
            "tags, links, file names, hash tags, code",
        ),
        "language": Rule(
            f"{_TEXTS}:language", "not_english", "share of foreign words among function words", {"max": 0.5},
            "texts in another language than English",
        ),
        "repetition": Rule(
            f"{_TEXTS}:repetition", "repetition", "share of word triples seen before",
            {"max": {"brief": 0.15, "detailed": 0.3, "more_detailed": 0.3}},
            "texts that repeat themselves",
        ),
        "word_list": Rule(
            f"{_TEXTS}:word_list", "word_list", "share of nouns", {"max": 0.7, "words": 4, **_PARSER},
            "lists of key words: at least `words` words, nearly all of them nouns",
        ),
        "max_objects": Rule(
            f"{_TEXTS}:max_objects", "excessive_objects", "objects",
            {"max": {"brief": 10, "detailed": 30, "more_detailed": 60}, **_PARSER},
            "texts with excessive objects",
        ),
        "min_objects": Rule(
            f"{_TEXTS}:min_objects", "few_objects", "objects",
            {"min": {"brief": 1, "detailed": 1, "more_detailed": 2}, **_PARSER},
            "texts that name too few objects (nouns and names)",
        ),
        "min_actions": Rule(
            f"{_TEXTS}:min_actions", "few_actions", "actions",
            {"min": {"brief": 0, "detailed": 1, "more_detailed": 1}, **_PARSER},
            "texts in which too little happens",
        ),
        "object_complexity": Rule(
            f"{_TEXTS}:object_complexity", "simple_objects", "edges of the most connected object",
            {"min": {"brief": 1, "detailed": 1, "more_detailed": 1}, **_PARSER},
            "texts whose objects have no relations",
        ),
        "action_complexity": Rule(
            f"{_TEXTS}:action_complexity", "simple_actions", "edges of the most connected action",
            {"min": {"brief": 0, "detailed": 1, "more_detailed": 1}, **_PARSER},
            "texts whose actions have no relations",
        ),
    }
)  # fmt: skip


class RuleFilter:
    """One rule with its settings, as the engine runs it."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.rule = RULES[name]
        self.spec = Spec(name, "1", batch_size=64)
        self.config = dict(settings)
        self._function: Any = None

    @property
    def weights_sha256(self) -> str:
        """The hash of the parser, for a rule that reads one."""
        if "parser" not in self.config:
            return ""
        from florence2.engine.curation.filters import text_rules

        return text_rules.parser_of(self.config["parser"]).weights_sha256

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Parse the texts of many samples at once, for a rule that reads a parser: less than half the time."""
        if "parser" in self.config:
            from florence2.engine.curation.filters import text_rules

            text_rules.read(samples, self.config)

    def verdicts(self, sample: Sample) -> Iterator[Decision]:
        """A verdict, kept or rejected, on every item of the sample that the rule concerns."""
        if self._function is None:
            module, function = self.rule.function.split(":")
            self._function = getattr(importlib.import_module(module), function)
        for verdict in self._function(sample, self.config):
            reason = self.rule.reason if verdict.status == "rejected" else ""
            yield Decision(
                verdict.item_id, verdict.status, self.spec.name, reason, verdict.value, verdict.threshold, verdict.by_id
            )

    def judge(self, sample: Sample) -> Sequence[Decision]:
        """The rejections; an item that is not named stays as it is."""
        return [verdict for verdict in self.verdicts(sample) if verdict.status == "rejected"]


def open_chain(settings: str | Path | Mapping[str, Any] | None = None) -> list[RuleFilter]:
    """The rules in their order, as a YAML file or a mapping changes them: `nms: {max: 0.5}`, `language: false`."""
    where, given = "filters", settings
    if isinstance(settings, (str, Path)):
        where, given = str(settings), documents.read_settings(Path(settings))
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected rules with their settings, got {given!r:.60}")
    chosen: Mapping[str, Any] = given or {}
    unknown = [str(name) for name in chosen if name not in RULES]
    if unknown:
        raise ValueError(f"{where}: unknown rule {unknown[0]!r}; expected some of {', '.join(RULES)}")
    chain = []
    for name, rule in RULES.items():
        change = chosen.get(name)
        if change is False:
            continue
        chain.append(
            RuleFilter(name, _merged(f"{where}: {name}", rule.settings, {} if change in (None, True) else change))
        )
    return chain


def to_yaml(chain: Sequence[RuleFilter]) -> str:
    """The chain as the YAML that opens it, each rule with what it rejects and the unit of its value."""
    lines = []
    for name, rule in RULES.items():
        judge = next((f for f in chain if f.spec.name == name), None)
        value = yaml.safe_dump(judge.config if judge else False, default_flow_style=True, sort_keys=False, width=10_000)
        lines.append(f"{name}: {value.splitlines()[0]}  # {rule.unit}; {rule.says}")
    return "\n".join(lines) + "\n"


def _merged(where: str, defaults: Mapping[str, Any], change: Any) -> dict[str, Any]:
    if not isinstance(change, Mapping):
        raise ValueError(f"{where}: expected settings as {{{', '.join(defaults)}}}, true or false, got {change!r:.60}")
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in defaults.items()}
    for key, value in change.items():
        if key not in defaults:
            raise ValueError(f"{where}: unknown setting {key!r}; expected some of {', '.join(defaults)}")
        merged[key] = _value(where, key, defaults[key], value)
    return merged


def _value(where: str, key: str, default: Any, value: Any) -> Any:
    """The value, once it is of the default's type; a number for a mapping by granularity holds for all of them."""
    by_detail = isinstance(default, Mapping) and set(default) == set(CAPTION_DETAILS)  # others: by any name
    if by_detail and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = dict.fromkeys(default, value)
    made = structure(_type_of(default), value, where, settings=True, key=key)
    unknown = [name for name in value if name not in default] if by_detail else []
    if unknown:
        raise ValueError(f"{where}: {key}.{unknown[0]}: unknown key; expected some of {', '.join(default)}")
    if isinstance(default, Mapping):
        return {**default, **{name: _as_written(value[name], made[name]) for name in value}}
    return _as_written(value, made)


def _as_written(value: Any, made: Any) -> Any:
    """The value in its type, but a whole number stays one: a rule's fingerprint depends on it."""
    return value if isinstance(value, int) and made == value else made


def _type_of(default: Any) -> Any:
    if isinstance(default, Mapping):
        return dict[str, float]
    return list[str] if isinstance(default, list) else type(default) if isinstance(default, (bool, str)) else float
