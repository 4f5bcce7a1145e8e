"""The markers of a model's own chat template, measured by rendering probes with it.

Owns: the probes, what is proved of a template, the switches that make one stable, and why one cannot be used. After
that, no template is rendered any more.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

from convmodel.layout.config import chat_template_of, digest
from convmodel.layout.markers import ASSISTANT, RESPONSE, START, SYSTEM, TOOL, TRIMS, USER, TemplateMarkers
from convmodel.layout.rendering import LONGEST_TEMPLATE, Renderer, UnusableTemplateError, new_deadline
from convmodel.layout.text_encoder import encode_all, encoder_and_bound, is_text, marks_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

SWITCHES: tuple[Mapping[str, bool], ...] = ({}, {"enable_thinking": False}, {"thinking": False})
"""Variables of templates, in the order in which they are tried; later ones only if a template has them."""

_PROBES = (
    ("Hello there", "How are you today?", "Fine, thanks.", "Good to hear!", "Bye", "See you"),
    ("2 + 2", "It is 4.", "Ünïcode 你好 🦜", "first\nsecond", '"quoted"', "(aside)"),
    ("so what?", "I'm - well: A/B", "x", "No. 7", "ok…", "***"),
)
"""Texts of turns that differ in how they begin and end."""


def measure(hf_tokenizer: "PreTrainedTokenizerBase") -> TemplateMarkers:
    """Measures the markers of a tokenizer's chat template.

    Proved is: between the texts of two turns stand the same ids whatever the texts and however long the conversation;
    there is a control token among them, which no text is encoded as; a turn's text is followed by one; and a response
    is generated after the same ids after which it stands in a complete conversation.

    Raises:
        UnusableTemplateError: If there is no template, or this does not hold for it.
    """
    template = chat_template_of(hf_tokenizer)
    if not template:
        raise UnusableTemplateError("the tokenizer has no chat template")
    if len(template) > LONGEST_TEMPLATE:
        raise UnusableTemplateError(
            f"the chat template has {len(template):,} characters, more than {LONGEST_TEMPLATE:,}"
        )
    reasons: list[str] = []
    end = new_deadline()
    for switches in SWITCHES:
        if any(name not in template for name in switches):
            continue
        renderer = Renderer(hf_tokenizer, switches, end=end)
        try:
            return _measured(renderer)
        except UnusableTemplateError as error:
            reasons.append(str(error))
    raise UnusableTemplateError(reasons[0])


def _measured(renderer: Renderer) -> TemplateMarkers:
    """Measures a template with given switches; see `measure`."""
    failures: list[tuple[int, UnusableTemplateError]] = []
    for word_prefix, leads in product((True, False) if marks_words(renderer.hf_tokenizer) else (True,), _LEADS):
        encoder, _ = encoder_and_bound(renderer.hf_tokenizer, word_prefix=word_prefix, space_tokens=True)
        probing = _Probing(renderer, encoder, leads)
        try:
            probing.measure_required()
        except UnusableTemplateError as error:
            failures.append((len(probing.gaps), error))
        else:
            probing.measure_optional()
            return probing.markers(word_prefix=word_prefix)
    raise max(failures, key=lambda failure: failure[0])[1]  # of the way to encode text that came furthest


_LEADS: tuple[Mapping[str, str], ...] = (
    {},
    {USER: " ", ASSISTANT: " "},
    {USER: " "},
    {ASSISTANT: " "},
)
"""Spaces that templates put in front of a text and that a vocabulary makes part of its first word, by role."""

_REQUIRED = (
    (USER,),
    (USER, ASSISTANT),
    (USER, ASSISTANT, USER),
    (USER, ASSISTANT, USER, ASSISTANT),
    (USER, ASSISTANT, USER, ASSISTANT, USER),
    (USER, ASSISTANT, USER, ASSISTANT, USER, ASSISTANT),
)
_OPTIONAL = (
    ((SYSTEM, USER), (SYSTEM, USER, ASSISTANT), (SYSTEM, USER, ASSISTANT, USER, ASSISTANT, USER)),
    ((ASSISTANT, USER), (ASSISTANT, USER, ASSISTANT)),
    ((SYSTEM, ASSISTANT, USER), (SYSTEM, ASSISTANT, USER, ASSISTANT)),
    ((USER, ASSISTANT, TOOL), (USER, ASSISTANT, TOOL, ASSISTANT, USER)),
    ((USER, TOOL), (USER, TOOL, ASSISTANT, USER)),
)
"""Shapes of conversations; of the optional ones, all of a line are possible, or none is."""

Gaps = dict[tuple[str, str], tuple[int, ...]]
"""The ids between the texts of two turns, by their roles."""


class _Probing:
    """What the probes show, for one way to encode text."""

    def __init__(self, renderer: Renderer, encoder: "Tokenizer", leads: Mapping[str, str]) -> None:
        self.renderer = renderer
        self.gaps: Gaps = {}
        self.ends: dict[str, int] = {}
        self._encoder = encoder
        self._leads = leads
        self._trims: dict[str, str] = {}
        tokenizer = renderer.hf_tokenizer
        special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
        names = {index: str(tokenizer.convert_ids_to_tokens(index)) for index in special}
        self._control = {index for index, name in names.items() if not is_text(name) and not name.isspace()}

    def measure_required(self) -> None:
        """Measures conversations of a user and an assistant.

        Raises:
            UnusableTemplateError: If something is not proved.
        """
        self._trims = {role: how for role in (USER, ASSISTANT) if (how := self._trim_of(role))}
        self._add(_REQUIRED)
        for role, others in ((USER, (ASSISTANT, RESPONSE)), (ASSISTANT, (USER,))):
            firsts = {self.gaps[role, other][:1] for other in others}
            end = next(iter(firsts))
            if len(firsts) > 1 or not end or end[0] not in self._control:
                raise UnusableTemplateError(
                    f"the text of the {role} is not followed by a control token: {self._show(end)}"
                )
            if self.ends.setdefault(role, end[0]) != end[0]:
                raise UnusableTemplateError(
                    f"the template ends a last response with {self._show([self.ends[role]])}, earlier ones with "
                    f"{self._show(end)}"
                )

    def measure_optional(self) -> None:
        """Measures system turns, tools, and an assistant who speaks first, as far as the template has them."""
        for shapes in _OPTIONAL:
            kept, ends = dict(self.gaps), dict(self.ends)
            try:
                self._trims |= {
                    role: how for role in shapes[0] if role not in (USER, ASSISTANT) and (how := self._trim_of(role))
                }
                self._add(shapes)
                if TOOL in shapes[0]:
                    self.ends[TOOL] = self.gaps[TOOL, ASSISTANT][0]
                if SYSTEM in shapes[0]:
                    self.ends.setdefault(SYSTEM, self.ends[USER])
            except UnusableTemplateError:
                self.gaps, self.ends = kept, ends

    def markers(self, *, word_prefix: bool) -> TemplateMarkers:
        """Returns what was measured."""
        openings: dict[str, dict[str, tuple[int, ...]]] = {}
        for (before, role), ids in self.gaps.items():
            openings.setdefault(before, {})[role] = ids
        for after in openings.values():
            if ASSISTANT in after:
                after.setdefault(RESPONSE, after[ASSISTANT])
            elif RESPONSE in after:
                after[ASSISTANT] = after[RESPONSE]
        return TemplateMarkers(
            openings,
            self.ends,
            trims=dict(self._trims),
            leads=dict(self._leads),
            word_prefix=word_prefix,
            switches=dict(self.renderer.switches),
            dated=self.renderer.is_dated(),
            template=digest(self.renderer.hf_tokenizer),
        )

    def _add(self, shapes: Sequence[Sequence[str]]) -> None:
        for texts, shape in product(_PROBES, shapes):
            turns = list(zip(shape, texts, strict=False))
            ids = self.renderer.render(turns)
            gaps = self._gaps(turns, ids)
            roles = [START, *shape]
            is_response = shape[-1] == ASSISTANT and len(shape) > 1
            for pair, gap in zip(pairwise(roles[: len(roles) - is_response]), gaps, strict=False):
                self._note(pair, gap)
            if is_response:
                self._note_response(shape[-2], gaps[-2])
            if shape[-1] == ASSISTANT:
                if gaps[-1]:
                    self.ends.setdefault(ASSISTANT, gaps[-1][0])
                continue
            prompt, begin = self.renderer.render(turns, prompt=True), len(ids) - len(gaps[-1])
            if prompt[:begin] != ids[:begin]:
                raise UnusableTemplateError("the template writes a prompt differently from the same conversation")
            self._note((shape[-1], RESPONSE), tuple(prompt[begin:]))

    def _note_response(self, before: str, gap: tuple[int, ...]) -> None:
        """Checks how a response stands in a complete conversation: as in the prompt for it.

        Or as if another turn followed, if the prompt also opens and closes something: empty thoughts.
        """
        prompt = self.gaps[before, RESPONSE]
        if gap == prompt:
            return
        thoughts = prompt[len(gap) :]
        closed = sum(index in self._control for index in thoughts)
        same_text = self._show(gap) == self._show(prompt)
        if not same_text and not (prompt[: len(gap)] == gap and closed and closed % 2 == 0):
            raise UnusableTemplateError(
                f"a response is generated after {self._show(prompt)}, but stands in a conversation after "
                f"{self._show(gap)}"
            )
        self._note((before, ASSISTANT), gap)

    def _note(self, pair: tuple[str, str], gap: tuple[int, ...]) -> None:
        """Adds the ids between two turns, which must be the same each time."""
        if self.gaps.setdefault(pair, gap) != gap:
            before, role = pair
            seen = f"{self._show(self.gaps[pair])} and {self._show(gap)}"
            between = f"between {before} and {role}" if before != START else f"before a first turn of the {role}"
            raise UnusableTemplateError(f"the template is not the same each time: {between} stand {seen}")
        if self._control.isdisjoint(gap) and pair[0] != START and pair != (SYSTEM, USER):
            raise UnusableTemplateError(
                f"nothing but text, {self._show(gap)}, separates {pair[0]} and {pair[1]}, so that a text could pretend "
                "to be another turn"
            )

    def _gaps(self, turns: Sequence[tuple[str, str]], ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Returns the ids before each text, and those after the last one."""
        gaps, place = [], 0
        for role, text in turns:
            encoded = self._encode(role, text)
            begin = _find(ids, encoded, place)
            if begin is None:
                raise UnusableTemplateError(
                    f"the text of a turn does not stand unchanged in what it writes: {text!r} of the {role}"
                )
            gaps.append(tuple(ids[place:begin]))
            place = begin + len(encoded)
        return [*gaps, tuple(ids[place:])]

    def _encode(self, role: str, text: str) -> list[int]:
        trimmed = getattr(text, self._trims.get(role, "__str__"))()
        return encode_all(self._encoder, [self._leads.get(role, "") + trimmed])[0]

    def _trim_of(self, role: str) -> str:
        """Returns the string method that the template applies to the text of a role; empty if it keeps it."""
        shape = {USER: (USER,), ASSISTANT: (USER, ASSISTANT), SYSTEM: (SYSTEM, USER), TOOL: (USER, ASSISTANT, TOOL)}[
            role
        ]
        probe = "  spaces  "
        written = self.renderer.text([(each, probe if each == role else "Hello") for each in shape])
        if probe in written:
            return ""
        how = next((how for how in TRIMS[1:] if getattr(probe, how)() in written), TRIMS[0])
        if getattr(probe, how)() not in written:
            raise UnusableTemplateError(f"the text of the {role} does not stand in what the template writes")
        return how

    def _show(self, ids: Sequence[int]) -> str:
        return repr(self.renderer.hf_tokenizer.decode(list(ids), skip_special_tokens=False)) if ids else "nothing"


def _find(ids: Sequence[int], part: Sequence[int], start: int) -> int | None:
    """Returns where a part of a sequence begins; None if it is not there."""
    places = range(start, len(ids) - len(part) + 1)
    return next((place for place in places if list(ids[place : place + len(part)]) == list(part)), None)
