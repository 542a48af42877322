"""How probable a model finds given words as the answer to an ask about a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from florence2.codec.tasks import task_of
from florence2.model.florence import Florence
from florence2.predictor.asks import prompt_of
from florence2.predictor.batch import EncodedImage, ModelParts
from florence2.records import Ask

KINDS = ("text", "region_text")  # output kinds whose answers are words first


def log_probabilities(
    predictor: ModelParts, picture: EncodedImage, ask: Ask, texts: Sequence[str], rows: int = 64
) -> np.ndarray:
    """(N,) mean log-probabilities of a token of each text as the answer; what ends it counts as one token.

    ValueError for a task whose answers are no words, an empty text, one too long for the model, or another runtime.
    """
    model, tokenizer, task = predictor.model, predictor.tokenizer, task_of(ask.task, predictor.tasks)
    if not isinstance(model, Florence):
        raise ValueError(f"likelihood: expected a model of PyTorch, got {type(model).__name__}")
    if task.output_kind not in KINDS:
        raise ValueError(f"likelihood: {task.name}: its answers are no words alone")
    ids = [tokenizer.encode(text, specials=False) for text in texts]
    longest = model.config.text.max_positions - 3
    for text, own in zip(texts, ids):
        if not own or len(own) > longest:
            raise ValueError(f"likelihood: {text!r:.60}: expected 1 to {longest} tokens, got {len(own)}")
    prompt = torch.tensor([tokenizer.prompt_ids(prompt_of(ask, picture.size_wh, predictor.tasks))])
    ends = range(tokenizer.loc0, tokenizer.loc0 + 1000) if task.output_kind == "region_text" else (tokenizer.eos,)
    found = [
        _of_rows(model, picture, prompt, ids[start : start + rows], tokenizer.bos, list(ends))
        for start in range(0, len(ids), rows)
    ]
    return np.concatenate(found) if found else np.zeros(0)


def _of_rows(
    model: Florence,
    picture: EncodedImage,
    prompt: torch.Tensor,
    ids: Sequence[Sequence[int]],
    bos: int,
    ends: Sequence[int],
) -> np.ndarray:
    pad, width = model.config.pad_id, 1 + max(map(len, ids))
    decoder = torch.tensor([[model.config.start_id, bos, *own, *[pad] * (width - 1 - len(own))] for own in ids])
    with torch.inference_mode():
        features = picture.features[None].expand(len(ids), -1, -1)
        logits = model(features, prompt.expand(len(ids), -1), None, decoder).float().log_softmax(-1)
    out = []
    for row, own in zip(logits[:, 1:], ids):  # after <s> on
        words = row[torch.arange(len(own)), torch.tensor(own, device=row.device)]
        out.append(float(words.sum() + row[len(own), ends].logsumexp(0)) / (len(own) + 1))
    return np.array(out)
