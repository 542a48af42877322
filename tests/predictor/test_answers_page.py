"""Every example of docs/answers.md says what it says there."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"


def test_the_page_s_examples():
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8", optionflags=doctest.REPORT_NDIFF)
    assert result.failed == 0 and result.attempted > 20


def test_the_page_s_table_names_every_filter():
    from florence2.predictor.post_filters import FILTERS

    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in FILTERS)
