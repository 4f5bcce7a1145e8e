"""The token layout as chat templates for other programs, from the control tokens around turns.

Owns: which text stands before a turn, and these rules in Jinja (llama.cpp, transformers) and in Go's template language
(Ollama). The model's own chat template is not copied, since it may write what the layout was not measured with.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from convmodel.export.gguf_vocabulary import Vocabulary
from convmodel.layout.markers import ASSISTANT, START, SYSTEM, TOOL, USER
from convmodel.layout.separator import choose_bos
from convmodel.layout.text_encoder import encode_all, encoder_and_bound, marks_words
from convmodel.layout.tokenizer import ConversationTokenizer

_ROLES = (SYSTEM, USER, ASSISTANT, TOOL)
_ASCII_BLANKS = " \t\n\r\f\v"  # what llama.cpp trims
_BLANKS = (" ", "  ", "\n", "\n\n", "\t", " \n")
_FIRST = "first"  # the name of a first turn's role before; no role is called so


@dataclass(frozen=True, slots=True)
class TurnTemplates:
    """The texts around turns.

    Attributes:
        openings: The text before a turn, by the role of the turn before it (or `START`) and its own; with a space at
            its end where the vocabulary makes that a part of a turn's first word.
        responses: The text before a response, by the role of the turn before it.
        ends: The text that ends a turn, by role.
        trims: The name of the string method that trims the text of a role; none if it is kept.
        trims_start: The roles whose text is trimmed at its start here but not by the layout: where text stands before
            white space, programs encode both together.
        bos: The beginning-of-text token with which every first opening begins; empty if there is none.
    """

    openings: Mapping[str, Mapping[str, str]]
    responses: Mapping[str, str]
    ends: Mapping[str, str]
    trims: Mapping[str, str]
    trims_start: frozenset[str]
    bos: str

    def content(self, role: str, text: str) -> str:
        """Returns the text of a turn without what is trimmed beyond what the layout trims."""
        return text.lstrip(_ASCII_BLANKS) if role in self.trims_start else text

    def jinja(self) -> str:
        """Returns the rules as a chat template in Jinja."""
        role = "message['role']"
        parts = [
            f"{{%- set ns = namespace(before='{_FIRST}') -%}}{{%- for message in messages -%}}",
            f"{{%- set pair = ns.before + ' ' + {role} -%}}",
            f"{{%- if {role} == ns.before -%}}{{{{- '\\n' -}}}}",
        ]
        for text, pairs in self._rules(with_bos=True).items():
            parts.append(f"{{%- elif pair in {_list(pairs)} -%}}{{{{- {_quoted(text)} -}}}}")
        problem = f"'a message of the ' + {role} + ' has no place here'"
        parts.append(f"{{%- else -%}}{{{{- raise_exception({problem}) -}}}}{{%- endif -%}}")
        content = "message['content']"
        for how, roles in _grouped(self.trims).items():
            content = f"message['content'].{how}() if {role} in {_list(roles)} else {content}"
        parts.append(f"{{{{- {content} -}}}}{{%- set ns.before = {role} -%}}{{%- endfor -%}}")
        parts.append("{%- if add_generation_prompt -%}")
        parts += [_jinja_if("ns.before", roles, text) for text, roles in _grouped(self.responses).items()]
        parts.append("{%- else -%}")
        parts += [_jinja_if("ns.before", roles, text) for text, roles in _grouped(self.ends).items()]
        parts.append("{%- endif -%}")
        return "".join(parts)

    def go(self) -> str:
        """Returns the rules as a template of Ollama, which always ends with the opening of a response.

        Ollama puts the beginning-of-text token in front, and has no way to trim, or to refuse a message: one that has
        no place is left out.
        """
        parts = [
            f'{{{{- $before := "{_FIRST}" }}}}{{{{- $fits := "" }}}}{{{{- range .Messages }}}}',
            '{{- $pair := printf "%s %s" $before .Role }}{{- $fits = "yes" }}',
            '{{- if eq .Role $before }}{{ "\\n" }}',
        ]
        for text, pairs in self._rules(with_bos=False).items():
            parts.append(f"{{{{- else if eq $pair {' '.join(map(_quoted, pairs))} }}}}{{{{ {_quoted(text)} }}}}")
        parts.append('{{- else }}{{- $fits = "" }}{{- end }}')
        parts.append('{{- if eq $fits "yes" }}{{ .Content }}{{- $before = .Role }}{{- end }}{{- end }}')
        for text, roles in _grouped(self.responses).items():
            names = " ".join(map(_quoted, roles))
            parts.append(f"{{{{- if eq $before {names} }}}}{{{{ {_quoted(text)} }}}}{{{{- end }}}}")
        return "".join(parts)

    def _rules(self, *, with_bos: bool) -> dict[str, list[str]]:
        """Returns each text with the pairs of roles between which it stands."""
        texts: dict[str, list[str]] = {}
        for before, after in self.openings.items():
            for role, text in after.items():
                shown = text if with_bos or before != START else text.removeprefix(self.bos)
                texts.setdefault(shown, []).append(f"{_FIRST if before == START else before} {role}")
        return texts


def _grouped(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the roles of each text."""
    roles: dict[str, list[str]] = {}
    for role, text in texts.items():
        roles.setdefault(text, []).append(role)
    return roles


def _jinja_if(name: str, roles: Sequence[str], text: str) -> str:
    return f"{{%- if {name} in {_list(roles)} -%}}{{{{- {_quoted(text)} -}}}}{{%- endif -%}}"


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, names))}]"


def _quoted(text: str) -> str:
    """Returns a string literal that Jinja, Go and JSON read alike."""
    return json.dumps(text, ensure_ascii=False)


def turn_templates(tokenizer: ConversationTokenizer, vocabulary: Vocabulary) -> TurnTemplates:
    """Returns the texts around turns, with the names of control tokens that a vocabulary has."""
    layout, markers = tokenizer.layout, tokenizer.layout.markers
    writer = _Writer(tokenizer, vocabulary)
    pairs = [(b, r) for b, r in product((START, *_ROLES), _ROLES) if b != r and markers.follows(b, r)]
    if layout.template is None:
        pairs = [pair for pair in pairs if TOOL not in pair]
    openings: dict[str, dict[str, str]] = {}
    for before, role in pairs:
        lead = layout.leads.get(role, "") or writer.lead
        openings.setdefault(before, {})[role] = writer.text(markers.opening(before, role)) + lead
    responses = {
        before: markers.opening(before, ASSISTANT, is_last=True)
        for before, role in pairs
        if role == ASSISTANT and before != START
    }
    speakers = [role for role in _ROLES if any(role in pair for pair in pairs)]
    separator = -1 if layout.separator_id is None else layout.separator_id
    bos = choose_bos(tokenizer.hf_tokenizer, separator)
    firsts = [markers.opening(START, role) for before, role in pairs if before == START]
    trims = dict(layout.template.trims) if layout.template else {}
    trims_start: frozenset[str] = frozenset()
    if any(map(writer.joins_blanks, [*firsts, *responses.values()])):
        trims_start = frozenset(role for role in speakers if trims.get(role) not in ("strip", "lstrip"))
        trims |= {role: "strip" if role in trims else "lstrip" for role in speakers if role in trims_start}
    begins = all(list(ids[:1]) == [bos] for ids in firsts)
    return TurnTemplates(
        openings=openings,
        responses={before: writer.text(ids) for before, ids in responses.items()},
        ends={role: writer.text([markers.end(role)]) for role in speakers},
        trims=trims,
        trims_start=trims_start,
        bos=vocabulary.names[bos] if bos is not None and begins else "",
    )


class _Writer:
    """Writes the ids of control tokens as the text that programs encode to them."""

    def __init__(self, tokenizer: ConversationTokenizer, vocabulary: Vocabulary) -> None:
        self._names = vocabulary.names
        self._marks = vocabulary.marks_first_word
        self._hf_tokenizer = tokenizer.hf_tokenizer
        self._encoder, _ = encoder_and_bound(tokenizer.hf_tokenizer, **tokenizer.layout.encoding)
        separate = tokenizer.layout.template is None and marks_words(tokenizer.hf_tokenizer)
        self.lead = " " if separate and not self._marks else ""  # where each turn begins with a space mark

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, of control tokens their new name."""
        return "".join(self._names[run] if isinstance(run, int) else self._plain(run) for run in self._runs(ids))

    def joins_blanks(self, opening: Sequence[int]) -> bool:
        """Returns whether white space after an opening is encoded together with the opening's end."""
        runs: list[Any] = list(self._runs(opening))
        if not runs or isinstance(runs[-1], int):
            return False
        tail = self._plain(runs[-1])
        separate, together = encode_all(self._encoder, [tail]), [f"{tail}{blank}x" for blank in _BLANKS]
        turns = encode_all(self._encoder, [f"{blank}x" for blank in _BLANKS])
        return encode_all(self._encoder, together) != [[*separate[0], *ids] for ids in turns]

    def _runs(self, ids: Sequence[int]) -> Iterator[int | list[int]]:
        """Splits ids into control tokens and the runs of text between them."""
        run: list[int] = []
        for index in ids:
            if index not in self._names:
                run.append(index)
                continue
            if run:
                yield run
            run = []
            yield index
        if run:
            yield run

    def _plain(self, ids: Sequence[int]) -> str:
        """Decodes text that follows a control token."""
        before = next(iter(self._names))
        whole = self._hf_tokenizer.decode([before, *ids], clean_up_tokenization_spaces=False)
        text = str(whole).removeprefix(self._hf_tokenizer.decode([before], clean_up_tokenization_spaces=False))
        return text.removeprefix(" ") if self._marks else text
