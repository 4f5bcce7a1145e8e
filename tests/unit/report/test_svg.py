"""Pictures as SVG inside a page."""

import re
from collections import Counter

from html_page import Page

from convmodel.report.svg import FILL, INK, bars, histogram
from convmodel.training.doctor.statistics import Histogram


def test_pictures_have_the_pages_colours_and_ids_of_their_own() -> None:
    svgs = [histogram(Histogram(Counter([1, 2, 2, 5])), name, "turns", "conversations") for name in ("a", "b")]

    parsed = Page("".join(svgs))
    assert parsed.ids
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {place[1:] for place in parsed.referred} <= set(parsed.ids)
    for svg in svgs:
        assert INK not in svg
        assert FILL not in svg
        assert "var(--bar)" in svg
        assert 'aria-label="conversations by turns"' in svg


def test_the_largest_values_share_the_last_bar() -> None:
    counts = Counter(dict.fromkeys(range(1, 100), 1) | {10_000: 1})

    assert "(last bar: this or more)" in histogram(Histogram(counts), "a", "tokens", "turns")
    assert "last bar" not in histogram(Histogram(Counter([1, 2])), "a", "tokens", "turns")


def test_long_names_are_cut() -> None:
    svg = bars([("a" * 18, 3), ("b" * 19, 2)], "names", "tokens")

    assert re.search(f">{'a' * 18}<", svg)
    assert re.search(f">{'b' * 17}…<", svg)
