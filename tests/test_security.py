"""What is never executed: pickles, YAML tags, remote code. Each door is given something that would leave a mark."""

import ast
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

import florence2
from florence2.cli.refine import recipe_of
from florence2.codec.tasks import load_tasks
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


STARTERS = {  # the modules that start a process, all of them this Python
    "engine/execution/fork_template.py", "engine/execution/processes.py", "serving/server.py",
    "serving/review_queue.py", "serving/worker_link.py", "sources/child_process.py", "sources/record_files.py",
}  # fmt: skip


def test_no_program_is_started_but_python():
    package = Path(florence2.__file__).parent
    for file in package.rglob("*.py"):
        name, tree = file.relative_to(package).as_posix(), ast.parse(file.read_text())
        imported = {
            a.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names
        }
        assert "subprocess" not in imported or name in STARTERS, name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                assert not re.fullmatch(r"os\.(system|popen|exec\w+|spawn\w+|posix_spawnp?|startfile)", called), name
                if called.startswith("subprocess.") and called != "subprocess.TimeoutExpired":
                    assert ast.unparse(node.args[0]).startswith("[sys.executable,"), f"{name}: {ast.unparse(node)[:80]}"


def test_rows_of_a_checkpoint_s_tasks_are_names(tmp_path):
    rows = [{"token": "<X>", "prompt": "x", "gives": "__import__('os').mkdir('mark')", "keeps": "answer"}]
    (tmp_path / "tasks.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="tasks.json: .*gives: expected one of"):
        load_tasks(tmp_path)
    assert not Path("mark").exists()
