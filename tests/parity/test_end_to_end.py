"""From a file's pixels to the official dictionary, ours equals transformers: processor, `generate`, post-processing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from florence2 import pixels
from florence2.codec.official import BANNED_PHRASES, KINDS
from florence2.codec.tasks import TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.predictor import Florence2, load
from tests.fixtures import bart_tokenizer
from tests.parity.twins import lively, tiny

ASKS = {  # task -> what it takes, as the reference wants it and as ours does
    "<CAPTION_TO_PHRASE_GROUNDING>": ("a red car by two dogs", {"text": "a red car by two dogs"}),
    "<REFERRING_EXPRESSION_SEGMENTATION>": ("the dog", {"text": "the dog"}),
    "<OPEN_VOCABULARY_DETECTION>": ("wheels", {"text": "wheels"}),
    **{
        token: ("<loc_52><loc_332><loc_932><loc_774>", {"region": (33.6, 159.6, 596.8, 371.8)})
        for token in ("<REGION_TO_SEGMENTATION>", "<REGION_TO_CATEGORY>", "<REGION_TO_DESCRIPTION>", "<REGION_TO_OCR>")
    },
}
RULES = dict(no_repeat_ngram_size=3, forced_bos_token_id=0, forced_eos_token_id=2, decoder_start_token_id=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with the official vocabulary, in transformers' layout."""
    tokenizer = Tokenizer.load(bart_tokenizer(tmp_path_factory.mktemp("bart")))
    config = replace(tiny(96, vocab_size=tokenizer.vocab_size), image_id=None)
    model = lively(config, eos=1.4, location=1.3)
    path = tmp_path_factory.mktemp("native")
    Florence2(model, tokenizer).save(path, "transformers")
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return load(folder)


@pytest.fixture(scope="module")
def reference(folder, ours):
    """Their model and processor, opened from that folder."""
    from transformers import AutoTokenizer, CLIPImageProcessor, Florence2ForConditionalGeneration
    from transformers.models.florence2.processing_florence2 import Florence2Processor

    model = Florence2ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    images = CLIPImageProcessor.from_pretrained(folder)
    images.image_seq_length = ours.config.image_tokens
    rules = {kind: {} for kind in set(KINDS.values()) | {"description_with_polygons"}}
    rules["phrase_grounding"] = {"banned_grounding_tokens": sorted(BANNED_PHRASES)}
    return model, Florence2Processor(images, AutoTokenizer.from_pretrained(folder), post_processor_config=rules)


@pytest.fixture(scope="module")
def picture():
    """480 x 640, smooth enough that resizing matters and noisy enough that it is no flat colour."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return pixels.resize(noise, (640, 480))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_answered_as_transformers_does(ours, reference, picture, task, beams):
    from PIL import Image

    model, processor = reference
    written, given = ASKS.get(task, ("", {}))
    inputs = processor(text=task + written, images=Image.fromarray(picture), return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=30, num_beams=beams, do_sample=False, **RULES)
    text = processor.batch_decode(ids, skip_special_tokens=False)[0]
    wanted = processor.post_process_generation(text=text, task=task, image_size=(640, 480))

    answer = ours.predict(picture, task, official=True, num_beams=beams, max_new_tokens=30, **given)
    assert answer.token_ids == tuple(ids[0].tolist())
    assert answer.text == text
    assert answer.official("transformers") == wanted
