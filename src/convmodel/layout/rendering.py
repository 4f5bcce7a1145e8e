"""Rendering a model's chat template, whose code comes from elsewhere.

Owns: the limits of time and size, and the date that a template writes. Does not know what is measured.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from convmodel.layout.config import chat_template_of
from convmodel.layout.markers import USER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATE = datetime(2024, 7, 26)
"""The date for a template that writes today's, since a layout must not change every day; Llama 3's own default."""

LONGEST_TEMPLATE = 200_000
"""The limit of a chat template in characters."""

SECONDS = 20.0
"""The limit of the time that all renderings of a template may take together."""


def new_deadline() -> float:
    """Returns the time by which renderings that begin now must end, in seconds of the monotonic clock."""
    return time.monotonic() + SECONDS


class UnusableTemplateError(Exception):
    """Why a chat template cannot be a layout; part of a sentence."""


class Renderer:
    """Renders conversations with a chat template, to token ids."""

    def __init__(
        self, hf_tokenizer: "PreTrainedTokenizerBase", switches: Mapping[str, bool], *, end: float | None = None
    ) -> None:
        """Renders until `end`, in seconds of the monotonic clock, by default `SECONDS` from now."""
        self._end = new_deadline() if end is None else end
        self.hf_tokenizer = hf_tokenizer
        self.switches = switches
        self._render: Any = hf_tokenizer.apply_chat_template
        self._template = chat_template_of(hf_tokenizer)
        self._date = DATE

    def render(self, turns: Sequence[tuple[str, str]], *, prompt: bool = False) -> list[int]:
        """Returns the ids that the template writes; see `text`."""
        text = self.text(turns, prompt=prompt)
        return list(self.hf_tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, turns: Sequence[tuple[str, str]], *, prompt: bool = False) -> str:
        """Returns what the template writes for (role, text) pairs: a prompt for a response, or a whole conversation.

        Raises:
            UnusableTemplateError: If the template raises an error or takes too long.
        """
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            with _deadline(self._end):
                written = self._render(
                    messages,
                    tokenize=False,
                    add_generation_prompt=prompt,
                    chat_template=self._dated_template,
                    **self.switches,
                )
        except Exception as error:  # of the template's own code
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnusableTemplateError(f"the chat template cannot be rendered: {reason[:200]}") from error
        if len(str(written)) > LONGEST_TEMPLATE:
            raise UnusableTemplateError(f"the chat template writes {len(str(written)):,} characters around a few words")
        return str(written)

    def is_dated(self) -> bool:
        """Returns whether the template writes the date."""
        written = self.text([(USER, "Hello")], prompt=True)
        self._date = DATE + timedelta(days=400)
        try:
            return self.text([(USER, "Hello")], prompt=True) != written
        finally:
            self._date = DATE

    @property
    def _dated_template(self) -> str:
        """The template, after a macro that replaces transformers' function of the current date by a fixed one."""
        if "strftime_now" not in self._template:
            return self._template
        written = "".join(f"|replace({name!r}, {text!r})" for name, text in _dated(self._date).items())
        return f"{{%- macro strftime_now(format) -%}}{{{{- format{written} -}}}}{{%- endmacro -%}}{self._template}"


def _dated(date: datetime) -> dict[str, str]:
    """Returns what each directive of `strftime` writes, also those without leading zeros."""
    written = {f"%{letter}": date.strftime(f"%{letter}") for letter in "aAbBcdHIjmMpSUwWxXyYzZ"}
    short = {f"%-{letter}": date.strftime(f"%{letter}").lstrip("0") or "0" for letter in "dHIjmMS"}
    return short | written | {"%%": "%"}


@contextmanager
def _deadline(end: float) -> Iterator[None]:
    """Ends the rendering of a template at a time: templates can loop, and are files from elsewhere."""
    before = sys.gettrace()

    def in_template(frame: Any, event: str, argument: object) -> Any:
        if time.monotonic() > end:
            raise TimeoutError(f"it takes longer than {SECONDS:g} seconds")
        return in_template

    def trace(frame: Any, event: str, argument: object) -> Any:
        return in_template if frame.f_code.co_filename == "<template>" else None

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
