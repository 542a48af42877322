"""What is never executed: pickles, YAML tags, remote code. Each door is given something that would leave a mark."""

import json
import os
import pickle

import pytest
import torch

from florence2.cli.refine import recipe_of
from florence2.engine.curation import merging
from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.specialists import open as open_specialist
from florence2.engine.specialists import transformers_models
from florence2.formats.benchmarks import read_refcoco
from florence2.model.tensor_files import TensorFile
from florence2.training.config_files import read_config


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_the_mark_is_left_where_a_pickle_is_read_as_python_does(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights(tmp_path, zipped):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"weight": Evil(tmp_path / "mark")}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="safetensors"):
        TensorFile(file)
    assert not (tmp_path / "mark").exists()


def test_pickled_references(tmp_path):
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Evil(tmp_path / "mark")]))
    (tmp_path / "instances.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(ValueError, match="plain lists and dicts only"):
        list(read_refcoco(tmp_path))
    assert not (tmp_path / "mark").exists()


YAML_DOORS = {
    "card": lambda file: open_specialist(str(file)),
    "filter rules": open_chain,
    "merging": merging.settings,
    "training config": read_config,
    "student's recipe": lambda file: recipe_of(str(file), []),
    "student's setting": lambda file: recipe_of(None, [f"model={file.read_text().split(': ', 1)[1]}"]),
}


@pytest.mark.parametrize("door", YAML_DOORS)
def test_yaml_tags(tmp_path, door):
    file = tmp_path / "file.yaml"
    file.write_text(f"model: !!python/object/apply:os.mkdir [{tmp_path / 'mark'}]\n")
    with pytest.raises(ValueError) as error:
        YAML_DOORS[door](file)
    assert not (tmp_path / "mark").exists() and "python/object" in str(error.value)


def test_remote_code_of_a_model(tmp_path, monkeypatch):
    """transformers would ask at the terminal; here it is refused without."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}})
    )
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(OSError, match="cannot be opened by transformers"):
        transformers_models.load(str(tmp_path), "", "cpu", "AutoModel")
    assert not (tmp_path / "mark").exists()
