"""The published model card's calls run on ours with the import and the place of the weights changed; ids as theirs."""

import pytest
import torch
from PIL import Image

from florence2 import compat
from florence2.codec.tasks import TASKS
from florence2.predictor import load
from tests.parity.test_end_to_end import ASKS, RULES, folder, ours, picture, reference  # noqa: F401

# the calls of the card's "Get started" and of its `run_example`; the picture is a file in place of an address
CARD = """
import torch
from PIL import Image
from transformers import AutoProcessor, AutoModelForCausalLM

device = "cuda:0" if torch.cuda.is_available() else "cpu"
torch_dtype = torch.float16 if torch.cuda.is_available() else torch.float32

model = AutoModelForCausalLM.from_pretrained(SOURCE, torch_dtype=torch_dtype, trust_remote_code=True).to(device)
processor = AutoProcessor.from_pretrained(SOURCE, trust_remote_code=True)

prompt = "<OD>"
image = Image.open(PICTURE)
inputs = processor(text=prompt, images=image, return_tensors="pt").to(device, torch_dtype)

generated_ids = model.generate(
    input_ids=inputs["input_ids"],
    pixel_values=inputs["pixel_values"],
    max_new_tokens=4096,
    num_beams=3,
    do_sample=False
)
generated_text = processor.batch_decode(generated_ids, skip_special_tokens=False)[0]
parsed_answer = processor.post_process_generation(generated_text, task="<OD>", image_size=(image.width, image.height))


def run_example(task_prompt, text_input=None):
    if text_input is None:
        prompt = task_prompt
    else:
        prompt = task_prompt + text_input
    inputs = processor(text=prompt, images=image, return_tensors="pt")
    generated_ids = model.generate(
        input_ids=inputs["input_ids"],
        pixel_values=inputs["pixel_values"],
        max_new_tokens=1024,
        early_stopping=False,
        do_sample=False,
        num_beams=3,
    )
    generated_text = processor.batch_decode(generated_ids, skip_special_tokens=False)[0]
    parsed_answer = processor.post_process_generation(
        generated_text, task=task_prompt, image_size=(image.width, image.height)
    )
    return parsed_answer


grounded = run_example("<CAPTION_TO_PHRASE_GROUNDING>", text_input="A green car parked in front of a yellow building.")
"""


@pytest.fixture(scope="module")
def microsoft(tmp_path_factory, ours):  # noqa: F811
    """The same weights in Microsoft's layout."""
    path = tmp_path_factory.mktemp("microsoft")
    ours.save(path, "microsoft")
    return path


def test_the_card_runs_with_the_import_and_the_source_changed(microsoft, picture, tmp_path):  # noqa: F811
    Image.fromarray(picture).convert("RGBA").save(tmp_path / "car.png")
    changed = CARD.replace("from transformers import", "from florence2.compat import")
    assert sum(a != b for a, b in zip(CARD.splitlines(), changed.splitlines())) == 1
    names = {"SOURCE": str(microsoft), "PICTURE": tmp_path / "car.png"}
    exec(changed, names)
    model = load(microsoft)
    answer = model.predict(picture, "<OD>", official=True, num_beams=3)
    assert names["generated_ids"].tolist() == [list(answer.token_ids)]
    assert names["parsed_answer"] == answer.official("microsoft")
    assert set(names["grounded"]) == {"<CAPTION_TO_PHRASE_GROUNDING>"}


@pytest.fixture(scope="module")
def native(folder):  # noqa: F811
    """Our wrappers of the folder in transformers' layout."""
    model = compat.Florence2ForConditionalGeneration.from_pretrained(folder, dtype="auto", device_map="cpu").eval()
    return model, compat.AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def wrapped(microsoft):
    """Our wrappers of the folder in Microsoft's layout."""
    return compat.AutoModelForCausalLM.from_pretrained(microsoft), compat.AutoProcessor.from_pretrained(microsoft)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_s_ids_and_dictionaries_are_those_of_transformers(native, reference, picture, task):  # noqa: F811
    theirs, their_processor = reference
    model, processor = native
    written = ASKS.get(task, ("", {}))[0]
    found, wanted = [], []
    for one, prepare, out in ((theirs, their_processor, wanted), (model, processor, found)):
        inputs = prepare(text=task + written, images=Image.fromarray(picture), return_tensors="pt").to(one.device)
        extra = RULES if one is theirs else {}
        with torch.inference_mode():
            ids = one.generate(**inputs, max_new_tokens=24, num_beams=3, do_sample=False, **extra)
        text = prepare.batch_decode(ids, skip_special_tokens=False)[0]
        out += [ids.tolist(), text, prepare.post_process_generation(text, task=task, image_size=(640, 480))]
        out.append(inputs["pixel_values"].shape)
    assert found == wanted


def test_a_batch_equals_single_calls_and_is_padded(wrapped, picture):  # noqa: F811
    model, processor = wrapped
    texts, pictures = ["<OD>", "<CAPTION_TO_PHRASE_GROUNDING>two dogs by a car"], [picture, picture[:, ::-1]]
    inputs = processor(text=texts, images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
    assert inputs.input_ids.shape == inputs.attention_mask.shape and inputs.pixel_values.shape[0] == 2
    together = model.generate(**inputs, max_new_tokens=20, num_beams=2)
    for text, one, row in zip(texts, pictures, together.tolist()):
        (alone,) = model.generate(**processor(text=text, images=one), max_new_tokens=20, num_beams=2).tolist()
        assert row[: len(alone)] == alone and set(row[len(alone) :]) <= {1}
    skipped = processor.decode(together[0], skip_special_tokens=True)
    assert "<loc" not in skipped


WRONG = {
    "do_sample": (lambda m, p, i: m.generate(**i, do_sample=True), "do_sample"),
    "an option of generate": (lambda m, p, i: m.generate(**i, temperature=0.5), "temperature: generate does not know"),
    "scores": (lambda m, p, i: m.generate(**i, output_scores=True), "output_scores"),
    "a numpy batch": (lambda m, p, i: p(text="<OD>", images=1, return_tensors="np"), "return_tensors"),
    "two texts, one picture": (lambda m, p, i: p(text=["<OD>"] * 2, images=[1]), "expected one a text"),
    "a task with something behind it": (lambda m, p, i: p(text="<OD>cars", images=1), "takes no input"),
    "no text": (lambda m, p, i: p.post_process_generation(task="<OD>", image_size=(1, 1)), "text"),
    "scores of beams": (
        lambda m, p, i: p.post_process_generation("", transition_beam_score=1),
        "transition_beam_score",
    ),
    "no prompt": (lambda m, p, i: p(text=None, images=1), "text: expected a prompt or a list"),
    "a prompt of bytes": (lambda m, p, i: p(text=b"<OD>", images=1), "text: expected a prompt or a list"),
    "a dictionary of no text": (lambda m, p, i: p.post_process_generation(5, "<OD>", (1, 1)), "text: expected a text"),
    "a dictionary of no task": (lambda m, p, i: p.post_process_generation("", None, (1, 1)), "task: expected a text"),
    "ids that are letters": (lambda m, p, i: p.decode("abc"), "ids: expected a list of whole numbers"),
    "ids that are one": (lambda m, p, i: p.decode(5), "ids: expected a list of whole numbers"),
    "tokens as letters": (lambda m, p, i: m.generate(**i, max_new_tokens="5"), "max_new_tokens: expected a whole"),
    "a penalty of letters": (lambda m, p, i: m.generate(**i, length_penalty="x"), "length_penalty: expected a number"),
    "a penalty without end": (lambda m, p, i: m.generate(**i, length_penalty=1e400), "length_penalty: expected a num"),
    "n-grams below 0": (lambda m, p, i: m.generate(**i, no_repeat_ngram_size=-1), "no_repeat_ngram_size: expected"),
    "an early stop of 5": (lambda m, p, i: m.generate(**i, early_stopping=5), "early_stopping: expected True, False"),
    "several devices": (lambda m, p, i: m.from_pretrained("nano", device_map={"a": 0}), "device_map"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_these_calls_do_not_know_is_refused_by_name(wrapped, picture, case):  # noqa: F811
    call, words = WRONG[case]
    model, processor = wrapped
    with pytest.raises(ValueError, match=words):
        call(model, processor, processor(text="<OD>", images=picture))


def test_to_another_type_and_back(microsoft):
    model = compat.AutoModelForCausalLM.from_pretrained(microsoft, torch_dtype=torch.float32)
    assert model.to("cpu") is model and model.dtype == torch.float32 and model.device.type == "cpu"
    assert model.to(torch.bfloat16).dtype == torch.bfloat16


def test_the_dictionary_alone():
    text = "</s><s>car<loc_52><loc_332><loc_932><loc_774></s>"
    found = compat.post_process_generation(text, task="<OD>", image_size=(640, 480))
    assert found["<OD>"]["labels"] == ["car"] and found["<OD>"]["bboxes"][0][0] == pytest.approx(33.6)
    ints = compat.post_process_generation(text, "<OD>", (640, 480), style="transformers")
    assert ints["<OD>"]["bboxes"] == [[33, 159, 596, 371]]
