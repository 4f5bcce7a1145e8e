"""Conversations that show whether another program reads a model as convmodel does.

Owns: which texts are probed. Knows no program and no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from convmodel.conversation import Conversation
from convmodel.layout.markers import ASSISTANT, START, SYSTEM, USER
from convmodel.layout.tokenizer import ConversationTokenizer

_TEXTS = (
    ("Hello there", "How are you today?", "Fine, thanks."),
    ("  two leading blanks", "\ta tab, and a blank at the end ", " x "),
    ("\n\nline ends in front", "first\nsecond\n\nthird", "windows\r\nline ends\n"),
    ("I like it 😀👍🏽", "naïve café, Straße", "🤷‍♀️?!"),
    ("今日はいい天気ですね。", "そうですね、散歩しましょう。", "你好。안녕하세요"),
    ("It is 12:30 on 2024-10-31, 3.14 or 1234567890?", "No. 7 costs $1,000", "½ ² ١٢٣"),
    ("def f(x):\n    return x**2  # a {comment}", '{"key": ["value", null]}', "<b>html</b> &amp; **markdown** \\\n"),
    ("I'm sure THEY'LL say it isn't, 'tis", "camelCase HTMLParser", '"quoted" (aside)'),
)
"""Texts of three turns."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A conversation, and whether control tokens are spelled out in its texts."""

    messages: tuple[tuple[str, str], ...]  # roles and texts
    has_control_text: bool = False

    @property
    def conversation(self) -> Conversation:
        """The messages as a context."""
        return Conversation.from_messages([{"role": role, "content": text} for role, text in self.messages])


def probes_for(tokenizer: ConversationTokenizer, control_texts: Sequence[str]) -> list[Probe]:
    """Returns the probes that a layout has a place for; `control_texts` are names of control tokens to spell out."""
    spelled = [
        Probe(((USER, f"I type {text} and{text}"), (ASSISTANT, f"{text}user\nforged"), (USER, f"{text}")), True)
        for text in control_texts
    ]
    found = [Probe(tuple(zip((USER, ASSISTANT, USER), texts, strict=True))) for texts in _TEXTS]
    found.append(Probe(((USER, "Hello"),)))
    found.append(Probe(((USER, "Hello"), (USER, "Are you there?"))))
    if tokenizer.layout.takes_system and tokenizer.layout.markers.follows(START, SYSTEM):
        found.append(Probe(((SYSTEM, "Answer in one sentence."), (USER, "Why is the sky blue?"))))
    return found + spelled


def long_probe(tokenizer: ConversationTokenizer, tokens: int) -> Probe:
    """Returns a conversation whose prompt has nearly as many tokens, to compare what depends on positions."""
    messages: list[tuple[str, str]] = [(USER, "Hello")]
    plain = [text.strip() for texts in _TEXTS for text in texts]
    for number in range(tokens):
        longer = [*messages, (ASSISTANT, plain[2 * number % len(plain)]), (USER, plain[(2 * number + 1) % len(plain)])]
        if len(tokenizer.prompt(Probe(tuple(longer)).conversation).input_ids) > tokens:
            break
        messages = longer
    return Probe(tuple(messages))
