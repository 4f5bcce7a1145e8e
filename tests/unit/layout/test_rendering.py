"""Rendering chat templates: limits, and a date that does not change."""

import sys

import pytest
from chat_templates import FORMS, REFUSED, make_tokenizer

from convmodel.layout import rendering
from convmodel.layout.rendering import Renderer, UnusableTemplateError


def test_a_template_that_loops_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    before = sys.gettrace()
    renderer = Renderer(make_tokenizer(*REFUSED["loops"][:2]), {})
    with pytest.raises(UnusableTemplateError, match=r"cannot be rendered: it takes longer than 0\.2 seconds"):
        renderer.text([("user", "Hello")])
    assert sys.gettrace() is before


def test_only_a_template_that_writes_the_date_is_dated() -> None:
    dated, plain = (
        Renderer(make_tokenizer(FORMS[name].template, FORMS[name].specials), {}) for name in ("llama3", "phi")
    )
    assert dated.is_dated()
    assert not plain.is_dated()
    assert "26 Jul 2024" in dated.text([("user", "Hello")])


@pytest.mark.parametrize(
    "call", ["strftime_now(form)", "strftime_now(format='%-d %B %Y')", "strftime_now ('%-d %B' + ' %Y')"]
)
def test_the_date_is_fixed_in_whatever_format(call: str) -> None:
    template = "{%- set form = '%-d %B %Y' -%}{{- 'Today: ' + " + call + " + messages[0].content -}}"
    renderer = Renderer(make_tokenizer(template, FORMS["phi"].specials), {})
    assert renderer.text([("user", "!")]) == "Today: 26 July 2024!"
    assert renderer.is_dated()
