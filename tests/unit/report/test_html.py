"""Pages and tables: everything that is not HTML already is escaped."""

from html_page import Page

from convmodel.report.html import Html, page, plots, table

EVIL = "<b>\u202e & 'x'"


def test_a_page_escapes_its_title_and_keeps_its_parts() -> None:
    html = page(EVIL, ["<p>one</p>", "<p>two</p>"], ".mine { color: red; }")

    parsed = Page(html)
    assert (parsed.elements["b"], parsed.elements["p"], parsed.elements["h1"]) == (0, 2, 1)
    assert parsed.text.count("<b>⟨U+202E⟩ & 'x'") == 2
    assert ".mine { color: red; }" in html


def test_cells_are_escaped_unless_they_are_html() -> None:
    parsed = Page(table(["", EVIL], [[EVIL, EVIL], ["a", Html("<i>b</i>")]]))

    assert (parsed.elements["b"], parsed.elements["i"]) == (0, 1)
    assert (parsed.elements["th"], parsed.elements["td"], parsed.elements["thead"]) == (4, 2, 1)
    assert parsed.text.count("<b>⟨U+202E⟩ & 'x'") == 3


def test_a_heading_row_without_text_is_left_out() -> None:
    assert Page(table(["", ""], [["a", "b"]])).elements["thead"] == 0


def test_captions_are_escaped_and_drawings_are_not() -> None:
    parsed = Page(plots({EVIL: "<svg></svg>", "two": "<svg></svg>"}))

    assert (parsed.elements["svg"], parsed.elements["figure"], parsed.elements["b"]) == (2, 2, 0)
