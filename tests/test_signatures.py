"""The public contract's signatures say what they take and give: every parameter has a type, and none is Any."""

import ast
import inspect
from collections import defaultdict

import pytest

import florence2
from florence2.predictor.prompted_model import PromptedModel


def functions():
    """(name, function) of everything that `florence2` exports, with the public methods of its classes."""
    for name in florence2.__all__:
        found = getattr(florence2, name)
        if inspect.isclass(found):
            methods = inspect.getmembers(found, inspect.isfunction)
            yield from ((f"{name}.{key}", method) for key, method in methods if not key.startswith("_"))
        elif inspect.isfunction(found):
            yield name, found


@pytest.mark.parametrize("name, function", [pytest.param(*each, id=each[0]) for each in functions()])
def test_no_parameter_of_the_public_contract_is_any(name, function):
    signature = inspect.signature(function)
    for parameter in list(signature.parameters.values()):
        if parameter.name != "self":
            kind = str(parameter.annotation)
            assert kind not in ("Any", "typing.Any") and parameter.annotation is not parameter.empty, parameter


def test_predict_is_overloaded_by_one_ask_and_by_several():
    (model,) = (n for n in ast.parse(inspect.getsource(PromptedModel)).body if isinstance(n, ast.ClassDef))
    gives = defaultdict(set)
    for method in model.body:
        if isinstance(method, ast.FunctionDef) and "overload" in map(ast.unparse, method.decorator_list):
            gives[method.name].add(ast.unparse(method.returns))
    assert {"Answer", "list[Answer]"} <= gives["predict"]
    assert {"Iterator[AnswerOrFailure]", "Iterator[Failure | list[AnswerOrFailure]]"} <= gives["predict_many"]
