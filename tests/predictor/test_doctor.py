"""The doctor says what a checkpoint is, names what is odd, and hears the loop."""

import json
import shutil

import pytest
import torch

from florence2.cli import main
from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import load_model, save_model
from florence2.predictor import load
from florence2.predictor.convert import convert
from florence2.predictor.doctor import _run as longest_run
from florence2.predictor.doctor import examine


def test_a_whole_checkpoint(folder, capsys):
    assert main(["doctor", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layout"] == "florence2" and report["problems"] == []
    assert report["facts"]["tied_head"] and report["facts"]["picture_wh"] == [64, 64]
    assert report["facts"]["tokenizer_ids"] == report["facts"]["vocabulary_rows"]
    assert main(["doctor", str(folder)]) == 0
    assert "whole, and it answers" in capsys.readouterr().out


def test_the_loop_is_heard(folder, tmp_path):
    model = load_model(folder)
    towards = model.language.decoder.layers[-1].mlp_norm.bias
    with torch.no_grad():
        towards.normal_(std=3)
        model.language.embedding.weight[0] = towards  # every state now says <s>
    save_model(model, tmp_path)
    Tokenizer.load(folder).save(tmp_path)
    assert any("loops on <s>" in note for note in examine(tmp_path).notes)


def test_a_loop_is_one_run_not_many_tokens():
    assert [longest_run(ids, 0) for ids in ([], [5], [0, 5, 0, 0, 5, 0], [0, 0, 0])] == [0, 0, 2, 3]


def test_what_is_odd_is_named(folder, tmp_path):
    there = tmp_path / "there"
    convert(folder, there, "transformers")
    data = json.loads((there / "config.json").read_text())
    data["text_config"]["vocab_size"] = 51289
    (there / "config.json").write_text(json.dumps(data))
    (there / "generation_config.json").write_text('{"do_sample": true}')
    report = examine(there)
    for word in ("51289", "do_sample"):
        assert word in " ".join(report.notes)
    convert(folder, tmp_path / "remote", "microsoft")
    assert not examine(tmp_path / "remote").notes
    data = json.loads((tmp_path / "remote" / "config.json").read_text())
    data["text_config"]["repetition_penalty"] = 1.5
    (tmp_path / "remote" / "config.json").write_text(json.dumps(data))
    assert ["text_config: repetition_penalty 1.5" in note for note in examine(tmp_path / "remote").notes] == [True]


def test_a_model_with_fewer_positions_than_its_picture_needs_is_refused(folder, tmp_path):
    convert(folder, tmp_path / "there", "transformers")
    for name in ("preprocessor_config.json", "processor_config.json"):  # then pictures of 768x768 are assumed
        (tmp_path / "there" / name).unlink()
    for open_it in (examine, load):
        with pytest.raises(ValueError, match="a picture takes 577 positions, expected fewer than .* 256"):
            open_it(tmp_path / "there")


def test_a_tokenizer_of_another_model(folder, tmp_path, capsys):
    odd = shutil.copytree(folder, tmp_path / "odd")
    Tokenizer.train([f"word{n} and number {n * 7}" for n in range(200)], 400).save(odd)
    assert main(["doctor", str(odd)]) == 1
    assert "do not belong together" in capsys.readouterr().out
    with pytest.raises(ValueError, match="do not belong together"):
        load(odd)


@pytest.mark.parametrize("command", ["doctor", "convert"])
def test_a_broken_checkpoint_is_one_line(tmp_path, capsys, command):
    (tmp_path / "broken").mkdir()
    rest = ["--to", "microsoft"] if command == "convert" else []
    target = [str(tmp_path / "out")] if command == "convert" else []
    assert main([command, str(tmp_path / "broken"), *target, *rest]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "config.json" in error
