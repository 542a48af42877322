"""Byte-level BPE with the 1,024 added tokens of Florence-2: text to ids and back. The only home of `tokenizers`.

Knows no task and adds no `<s>` or `</s>` but in `prompt_ids`. Ids 0-3 are `<s> <pad> </s> <unk>` in every vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from florence2.labels import one_line
from florence2.structuring import parse_json

CONTROL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
ADDED_TOKENS = (  # in the order in which the official processor appends them
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{i}>" for i in range(1000)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>"),
    *("<sep>", "<region_cap>", "</region_cap>"),
    *("<region_to_desciption>", "</region_to_desciption>"),  # misspelt in the official vocabulary
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
)
MAX_IDS = 1 << 20  # twenty times the official vocabulary
IMAGE_TOKEN = "<image>"  # the native layout's placeholder: takes the next free id


class Tokenizer:
    """One vocabulary: `encode` and `decode`, with special tokens or, for text that must stay text, without.

    `appended` names the added tokens that the files lacked.
    """

    bos, pad, eos, unk = 0, 1, 2, 3

    def __init__(self, backend: tokenizers.Tokenizer, where: str = "tokenizer") -> None:
        backend.no_padding()
        backend.no_truncation()
        for index, token in enumerate(CONTROL_TOKENS):
            if backend.token_to_id(token) != index:
                raise ValueError(
                    f"{where}: expected {token} at id {index}, got {backend.token_to_id(token)}; is it BART's?"
                )
        self.appended = tuple(token for token in ADDED_TOKENS if backend.token_to_id(token) is None)
        backend.add_special_tokens([_special(token) for token in CONTROL_TOKENS])
        backend.add_special_tokens([_special(token) for token in self.appended])
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._backend = backend
        self._plain = tokenizers.Tokenizer(backend.model)  # the same merges, no added tokens
        self._plain.pre_tokenizer = backend.pre_tokenizer
        self.loc0 = vocabulary["<loc_0>"]
        wrong = [i for i in range(1000) if vocabulary[f"<loc_{i}>"] != self.loc0 + i]
        if wrong:
            raise ValueError(
                f"{where}: expected <loc_{wrong[0]}> at id {self.loc0 + wrong[0]} (locations are consecutive), "
                f"got {vocabulary[f'<loc_{wrong[0]}>']}; use the tokenizer that came with the weights"
            )
        last = max(vocabulary, key=lambda token: vocabulary[token])
        self.vocab_size = vocabulary[last] + 1
        if self.vocab_size > MAX_IDS:
            raise ValueError(
                f"{where}: {last!r:.60}: expected an id below {MAX_IDS:,}, got {vocabulary[last]:,}; fetch it again"
            )
        twins = {index: token for token, index in vocabulary.items()}
        if len(twins) < len(vocabulary):
            token = next(token for token, index in vocabulary.items() if twins[index] != token)
            raise ValueError(
                f"{where}: {token!r:.60} and {twins[vocabulary[token]]!r:.60} have the one id {vocabulary[token]}; "
                "expected an id for each token; fetch it again"
            )
        self._tokens = twins
        added = backend.get_added_tokens_decoder()
        own = sorted((token.content for token in added.values() if not token.special), key=len, reverse=True)
        self._own = re.compile("|".join(map(re.escape, own))) if own else None
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self._bytes = [b""] * self.vocab_size
        for token, index in vocabulary.items():
            self._bytes[index] = token.encode() if index in added else _token_bytes(token)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a folder: tokenizer.json, or vocab.json with merges.txt, or fairseq's three files."""
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            path = folder / "tokenizer.json"
            try:
                backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
            except Exception as error:  # the library raises bare Exception
                raise ValueError(f"{path}: not a tokenizer ({one_line(error)}); fetch the file again") from None
            if not isinstance(backend.model, models.BPE):
                kind = type(backend.model).__name__
                raise ValueError(f"{path}: model: expected BPE, got {kind}; Florence-2 uses BART's vocabulary")
            made = cls(backend, str(folder))
            _refuse_other_ids(backend, path)
            return made
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            backend = _build(_read_json(folder / "vocab.json"), folder / "merges.txt")
            _append(backend, _added_in_files(folder))
        elif (folder / "encoder.json").is_file() and (folder / "dict.txt").is_file():
            backend = _build(_fairseq_vocabulary(folder), folder / "vocab.bpe")
        else:
            raise ValueError(f"{folder}: no tokenizer; expected tokenizer.json, or vocab.json with merges.txt")
        return cls(backend, str(folder))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A vocabulary of its own: `vocab_size` rows (specials, 256 bytes, merges), then the 1,024 added tokens."""
        backend = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(CONTROL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    def save(self, folder: str | Path, image_token: bool = False) -> None:
        """Write the files that `load` and transformers open; `image_token` adds `<image>`, as the native layout has."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        if image_token and backend.token_to_id(IMAGE_TOKEN) is None:
            backend.add_special_tokens([_special(IMAGE_TOKEN)])
        files: dict[str, Any] = {
            "tokenizer.json": json.loads(backend.to_str()),
            "tokenizer_config.json": {
                "add_prefix_space": False, "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>",
                "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
                "errors": "replace", "trim_offsets": True, "clean_up_tokenization_spaces": False,
                "model_max_length": 1024, "tokenizer_class": "BartTokenizer",
            },
        }  # fmt: skip
        if backend.token_to_id("<mask>") is None:
            del files["tokenizer_config.json"]["mask_token"]
            files["tokenizer_config.json"]["tokenizer_class"] = "PreTrainedTokenizerFast"  # BART's class would add one
        if backend.token_to_id(IMAGE_TOKEN) is not None:
            files["tokenizer_config.json"]["image_token"] = IMAGE_TOKEN
            files["tokenizer_config.json"]["extra_special_tokens"] = {"image_token": IMAGE_TOKEN}
        model = files["tokenizer.json"]["model"]
        added = {token.content: index for index, token in backend.get_added_tokens_decoder().items()}
        files["vocab.json"] = model["vocab"]
        files["added_tokens.json"] = {
            t: i for t, i in sorted(added.items(), key=lambda x: x[1]) if t not in model["vocab"]
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
        (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *merges)) + "\n", encoding="utf-8")

    def encode(self, text: str, specials: bool = True) -> list[int]:
        """Ids of a text; with `specials=False` a special string such as `<loc_5>` is encoded as plain letters.

        Added tokens that are not special (`with_tokens`) are words of the text either way.
        """
        try:
            if specials:
                return self._backend.encode(text, add_special_tokens=False).ids
            ids: list[int] = []
            start = 0
            for found in self._own.finditer(text) if self._own else ():
                ids += self._plain.encode(text[start : found.start()], add_special_tokens=False).ids
                ids.append(self.id_of(found[0]))
                start = found.end()
            return ids + self._plain.encode(text[start:], add_special_tokens=False).ids
        except TypeError:
            raise ValueError(f"text: expected Unicode, got a lone surrogate in {text!r:.80}; mend the text") from None

    def has(self, token: str) -> bool:
        """Whether it is one token of the vocabulary."""
        return self._backend.token_to_id(token) is not None

    def with_tokens(self, tokens: Iterable[str]) -> Tokenizer:
        """The same vocabulary with tokens of one's own after its last id; they may come in prompts and in answers.

        ValueError where one is there already, is empty, or begins or ends with white space.
        """
        tokens = list(tokens)
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        for token in tokens:
            if not token.strip() or token != token.strip() or tokens.count(token) > 1 or self.has(token):
                raise ValueError(
                    f"new token {token!r:.60}: expected a token that the vocabulary of {self.vocab_size} lacks, once, "
                    "without white space around it"
                )
        backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
        for number, token in enumerate(tokens):
            if backend.token_to_id(token) != self.vocab_size + number:
                got = backend.token_to_id(token)
                raise ValueError(f"new token {token!r:.60}: expected the id {self.vocab_size + number}, got {got}")
        return Tokenizer(backend)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt as the model takes it: `<s>` prompt `</s>`."""
        return [self.bos, *self.encode(prompt), self.eos]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens kept, nothing cleaned up; broken UTF-8 becomes U+FFFD."""
        return b"".join([self.token_bytes(index) for index in ids]).decode("utf-8", "replace")

    def token_bytes(self, index: int) -> bytes:
        """The bytes of one id; none for an id beyond the vocabulary (a padding row)."""
        return self._bytes[index] if 0 <= index < self.vocab_size else b""

    def token_of(self, index: int) -> str:
        """The token of an id as the vocabulary spells it."""
        return self._tokens[index]

    def id_of(self, token: str) -> int:
        """The id of one token; KeyError is never raised for the 1,024 added ones."""
        index = self._backend.token_to_id(token)
        if index is None:
            raise ValueError(
                f"{token!r}: not in the vocabulary of {self.vocab_size} tokens; expected a token, not a text"
            )
        return index

    @property
    def image_id(self) -> int:
        """The id of `<image>`: its own, or the next free one."""
        index = self._backend.token_to_id(IMAGE_TOKEN)
        return self.vocab_size if index is None else index


def _special(token: str) -> AddedToken:
    # `<mask>` eats the space before it, as BART's does; no other token strips
    return AddedToken(token, lstrip=token == "<mask>", rstrip=False, normalized=False, special=True)


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return backend


def _build(vocabulary: dict[str, int], merges_file: Path) -> tokenizers.Tokenizer:
    lines = merges_file.read_text(encoding="utf-8").split("\n")
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines if line and not line.startswith("#version"))]
    try:
        backend = _byte_level(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"{merges_file}: does not fit its vocabulary ({one_line(error)}); fetch both files again"
        ) from None
    backend.add_special_tokens([_special(token) for token in (*CONTROL_TOKENS, "<mask>") if token in vocabulary])
    return backend


def _refuse_other_ids(backend: tokenizers.Tokenizer, path: Path) -> None:
    """ValueError where an added token has another id than in its file: the library gives it the next free one."""
    for row in _read_json(path).get("added_tokens") or ():
        token, given = row["content"], row["id"]
        if (index := backend.token_to_id(token)) != given:
            raise ValueError(
                f"{path}: added_tokens: {token!r:.60}: expected id {index}, the next one free, got {given}; "
                "use the tokenizer.json that came with the weights"
            )


def _added_in_files(folder: Path) -> dict[str, int]:
    """Added tokens that a folder without tokenizer.json names beside its vocabulary."""
    added: dict[str, int] = {}
    if (folder / "tokenizer_config.json").is_file():
        rows = _read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        added.update({row["content"]: int(index) for index, row in rows.items()})
    if (folder / "added_tokens.json").is_file():
        added.update(_read_json(folder / "added_tokens.json"))
    return added


def _append(backend: tokenizers.Tokenizer, added: dict[str, int]) -> None:
    for token, index in sorted(added.items(), key=lambda item: item[1]):
        backend.add_special_tokens([_special(token)])
        if backend.token_to_id(token) != index:
            raise ValueError(
                f"added_tokens.json: {token!r}: expected the next free id {backend.token_to_id(token)}, got {index}; "
                "use the tokenizer.json that came with the weights"
            )


def _fairseq_vocabulary(folder: Path) -> dict[str, int]:
    strings = {index: token for token, index in _read_json(folder / "encoder.json").items()}
    vocabulary = {token: index for index, token in enumerate(CONTROL_TOKENS)}
    for line in (folder / "dict.txt").read_text(encoding="utf-8").splitlines():
        name = line.split(" ")[0]
        vocabulary[strings[int(name)] if name.isdigit() else name] = len(vocabulary)
    vocabulary["<mask>"] = len(vocabulary)
    return vocabulary


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({one_line(error)}); fetch the file again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, got {type(content).__name__}; fetch the file again")
    return content


def _alphabet() -> dict[str, int]:
    """GPT-2's table from printable stand-in characters to bytes."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(moved)}


_BYTE_OF = _alphabet()


def _token_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[letter] for letter in token])
    except KeyError:
        return token.encode("utf-8", "replace")
