"""Some of the pairs of `make faults`: two commands started together leave what one order of them leaves."""

import pytest

from tests.faults import COMMANDS, Trials, difference

PAIRS = [
    ("annotate", "annotate a reader"),  # one reads what the other writes
    ("annotate new pictures", "import"),  # the same pictures
    ("import", "import again"),  # one replaces the other
    ("annotate anew", "filter"),  # what is judged is replaced
    ("filter and merge", "filter otherwise"),  # both want the same round
    ("compact", "annotate"),
    ("undo", "filter"),
    ("compact", "undo"),
    ("verify --repair", "annotate new pictures"),
    ("refine", "filter and merge"),
    ("filter otherwise", "annotate a reader"),  # what is read is judged meanwhile
    ("refine", "refine"),  # one training, not two
]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    return Trials(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_two_commands_at_once_are_one_after_the_other(trials, number):
    first, second = PAIRS[number]
    assert difference(trials, first, second, 0.01 * number) == ""


IN_OBJECTS = [
    ("filter and merge", "filter otherwise", 0.0),
    ("annotate anew", "filter", 0.05),
    ("compact", "annotate", 0.0),
    ("verify --repair", "annotate new pictures", 0.1),
    ("import", "import again", 0.0),
]


@pytest.mark.parametrize("first, second, apart_s", IN_OBJECTS)
def test_two_commands_at_once_on_a_store_in_an_object_store_do_the_same(bucket, tmp_path, first, second, apart_s):
    assert difference(Trials(tmp_path, f"{bucket}/base"), first, second, apart_s) == ""


def test_each_command_changes_the_store_so_that_an_order_can_be_told(trials):
    assert {name for pair in PAIRS for name in pair} == set(COMMANDS)
    assert trials.serial("annotate", "filter") != trials.serial("filter", "annotate")
    assert trials.serial("undo", "annotate") != trials.serial("annotate", "undo")
