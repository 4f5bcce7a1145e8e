"""The renderer of Go's templates, for the constructs that Ollama's have."""

import pytest

from convmodel.export.go_template import GoTemplateError, render

MESSAGES = [{"role": "user", "content": "Hi {{ there }}"}, {"role": "assistant", "content": " yes "}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('a {{ "b\\n\\"c\\"" }} d', 'a b\n"c" d'),
        ('a  {{- "b" -}}  \n c', "abc"),
        ("{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}", "[user:Hi {{ there }}][assistant: yes ]"),
        ('{{ $x := "a" }}{{ range .Messages }}{{ $x }},{{ $x = .Role }}{{ end }}{{ $x }}', "a,user,assistant"),
        ('{{ if eq "a" "b" "a" }}yes{{ else }}no{{ end }}', "yes"),
        ('{{ if eq "a" "b" }}yes{{ else if eq "c" "c" }}second{{ else }}no{{ end }}!', "second!"),
        ('{{ if eq "a" "b" }}yes{{ else if eq "c" "d" }}second{{ else }}no{{ end }}!', "no!"),
        ('{{ $p := printf "%s %s" "a" "b" }}{{ if eq $p "a b" }}joined{{ end }}', "joined"),
        ('{{ "}} is text" }}', "}} is text"),
    ],
)
def test_constructs_are_rendered_as_go_renders_them(template: str, text: str) -> None:
    assert render(template, MESSAGES) == text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ .System }}", ".System is not supported"),
        ("{{ range .Tools }}{{ end }}", "range over .Tools"),
        ('{{ if eq "a" "a" }}', "has no end"),
        ("{{ end }}", "end without a beginning"),
        ('{{ $x = "a" }}', "x is not declared"),
        ("{{ len .Messages }}", "is not supported"),
    ],
)
def test_anything_else_is_an_error(template: str, problem: str) -> None:
    with pytest.raises(GoTemplateError, match=problem):
        render(template, MESSAGES)
