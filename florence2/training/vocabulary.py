"""New tokens: appended to a tokenizer, and the matrices of a model grown by their rows. Old ids and rows stay.

A new row is the mean of the rows of the letters that the token's name is spelt with, brackets left out, so that before
it is trained it is no likelier than they are (the tied matrix is the head as well); a fiftieth of the rows' spread is
added at random, so that no two tokens begin equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from florence2.codec.tokenizer import Tokenizer
from florence2.model.florence import Florence
from florence2.model.layouts import EMBEDDING, HEAD
from florence2.model.model_config import with_vocab

APART = 0.02  # of the rows' spread
OWN_ROWS = ("lora", "decoder")  # strategies that train of the matrix the rows of new tokens alone
BRACKETS = re.compile(r"[<>\[\]{}|_/-]+")


def grown(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """The tokenizer with these tokens; as it is where it already ends with them (a run that goes on)."""
    there = [token for token in tokens if tokenizer.has(token)]
    if there and [tokenizer.id_of(token) for token in tokens if token in there] == list(
        range(tokenizer.vocab_size - len(tokens), tokenizer.vocab_size)
    ):
        return tokenizer
    return tokenizer.with_tokens(tokens)


@torch.no_grad()
def grow(model: Florence, tokenizer: Tokenizer, tokens: Sequence[str], seed: int, multiple: int = 1) -> None:
    """Give the model a row for each of the tokenizer's last `tokens`: a spare row of padding, or a new one; rows in
    all are a multiple of `multiple`, filled up with the mean of the old ones."""
    rows = -(-max(model.config.text.vocab_size, tokenizer.vocab_size) // multiple) * multiple
    first = tokenizer.vocab_size - len(tokens)
    language = model.language
    embedding = nn.Embedding(rows, model.config.text.d_model, model.config.pad_id).to(model.device, model.dtype)
    embedding.weight.copy_(_filled(language.embedding.weight, rows, first, tokenizer, tokens, seed))
    language.embedding = embedding
    if language.head is not None:
        weight = _filled(language.head.weight, rows, first, tokenizer, tokens, seed)
        language.head.weight = nn.Parameter(weight)
        language.head.out_features = rows
    model.config = with_vocab(model.config, rows)
    language.config = model.config.text


def _filled(table: Tensor, rows: int, first: int, tokenizer: Tokenizer, tokens: Sequence[str], seed: int) -> Tensor:
    """(rows, C): the table's own rows, and from `first` on one for each token."""
    generator = torch.Generator().manual_seed(seed)
    spread = table[:first].float().std().cpu()
    mean_row = table[:first].double().mean(0, keepdim=True).to(table.dtype)
    out = torch.cat([table, mean_row.expand(max(0, rows - len(table)), -1)])
    for number, token in enumerate(tokens):
        name = BRACKETS.sub(" ", token).strip() or token
        pieces = [index for index in tokenizer.encode(name, specials=False) if index < first]
        mean = table[pieces or slice(0, first)].float().mean(0)
        noise = APART * spread * torch.randn(table.shape[1], generator=generator)
        out[first + number] = (mean + noise.to(mean.device)).to(table.dtype)
    return out


def own_rows(model: Florence, count: int, vocab_size: int) -> dict[str, slice]:
    """The rows of the last `count` ids of a vocabulary, by the name of each matrix that holds them."""
    names = [EMBEDDING, *([HEAD] if model.language.head is not None else [])]
    return {name: slice(vocab_size - count, vocab_size) for name in names}
