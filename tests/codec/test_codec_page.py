"""Every example of docs/codec.md says what it says there."""

import doctest
from pathlib import Path


def test_the_page_s_examples():
    page = Path(__file__).parents[2] / "docs" / "codec.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8", optionflags=doctest.REPORT_NDIFF)
    assert result.failed == 0 and result.attempted > 40
