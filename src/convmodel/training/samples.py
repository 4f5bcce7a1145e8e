"""Responses of the model in training to a few contexts of the validation data.

Owns: which contexts these are, responding to them as `convmodel chat` does without any effect on the run, and showing
the responses. `samples_file.py` owns the file.
"""

import logging
import random
from bisect import bisect, insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any
from unicodedata import combining, east_asian_width

from transformers import TrainerCallback

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.errors import ConfigError, ConversationError, ConvModelError
from convmodel.generation.batched import respond_to_many
from convmodel.generation.chat_options import chat_options
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import GenerationOptions
from convmodel.generation.respond import make_prompt
from convmodel.layout.sequence import LossOn, supervised_turns
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import FitConfig
from convmodel.training.fit_data import supervised
from convmodel.training.resume.run_state import random_state, restore_random_state
from convmodel.training.samples_file import SHOWN, SamplesFile
from convmodel.training.step.forward import plain_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(SHOWN)

_COLUMNS = 64
"""Columns of a turn that are shown, so that the assistant's fit in a terminal of 80; the file has all of it."""


@dataclass(frozen=True, slots=True)
class SampleContext:
    """A context, and the turn that follows it in the validation data."""

    context: Conversation
    speaker: str
    expected: str


class Samples(TrainerCallback):
    """Writes and shows responses to the same contexts before the first step and at each validation.

    Of several processes, the first one responds. Training is not affected: weights, gradients, modes, random generators
    and the number of threads are afterwards what they were.
    """

    def __init__(
        self,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        file: SamplesFile,
        contexts: Sequence[SampleContext],
        options: GenerationOptions,
    ) -> None:
        """Prepares a run; without contexts it only removes the file of an earlier one."""
        self._hf_model = hf_model
        self._tokenizer = tokenizer
        self._file = file
        # Those of one speaker in a row, as they are responded to together.
        order = list(dict.fromkeys(each.speaker for each in contexts))
        self._contexts = sorted(contexts, key=lambda each: order.index(each.speaker))
        self._options = options

    @classmethod
    def of(
        cls,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        valid: Iterable[Conversation] | None,
        config: FitConfig,
    ) -> "Samples":
        """Chooses the contexts of a run with an `output_dir`.

        Raises:
            ConfigError: If the validation data cannot be read again.
        """
        assert config.output_dir is not None
        file = SamplesFile(config.output_dir)
        if not config.samples:
            return cls(hf_model, tokenizer, file, (), GenerationOptions())
        options = chat_options(hf_model, tokenizer, {"seed": config.seed, "cut_long_turn": True})
        loss_on = supervised(config.to_dict(), tokenizer.layout.loss_on)
        try:
            contexts = choose_contexts(
                valid or (), config.samples, tokenizer, options, loss_on=loss_on, seed=config.seed
            )
        except ConversationError as error:  # it was read once without an error
            raise ConfigError(
                "samples reads the validation data a second time, and there is nothing to read: give valid as a file "
                "or a list, or leave samples out"
            ) from error
        if len(contexts) < config.samples:
            logger.warning(
                "samples: %d of %d contexts: no other validation conversation has a supervised turn that responds to "
                "another speaker",
                len(contexts),
                config.samples,
            )
        return cls(hf_model, tokenizer, file, contexts, options)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins or continues the file, and responds before the first step."""
        if state.is_world_process_zero:
            self._file.begin(state.global_step, written=bool(self._contexts))
            if not state.global_step:
                self._write(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Responds, unless that is done for this step."""
        if state.is_world_process_zero:
            self._write(state)

    def _write(self, state: Any) -> None:
        step = state.global_step
        if not self._contexts or step <= self._file.last:
            return
        records, names = [], []
        for each, response in zip(self._contexts, self._responses(), strict=True):
            if isinstance(response, ConvModelError):
                logger.warning("step %d: a sample is left out: %s", step, response)
                continue
            context = each.context.to_messages()
            records.append({"context": context, "expected": each.expected, "response": response})
            names.append(each.speaker)
        self._file.append(step, records)
        logger.info("%s", _shown(f"step {step} of {state.max_steps}", names, records))

    def _responses(self) -> list[str | ConvModelError]:
        """Responds to all contexts; context n has the run's seed plus n."""
        responses: list[str | ConvModelError] = []
        with _without_effect(self._hf_model):
            # Without memory for caches: the weights change before the next responses.
            engine = Engine(self._hf_model, cache_bytes=0)
            for speaker, group in groupby(self._contexts, key=lambda each: each.speaker):
                contexts, options = [each.context for each in group], replace(self._options, reply_as=speaker)
                results = respond_to_many(engine, self._tokenizer, contexts, options, first=len(responses))
                responses += [one if isinstance(one, ConvModelError) else one.responses[0] for one in results]
        return responses


def choose_contexts(
    conversations: Iterable[Conversation],
    count: int,
    tokenizer: ConversationTokenizer,
    options: GenerationOptions,
    *,
    loss_on: LossOn,
    seed: int,
) -> list[SampleContext]:
    """Chooses contexts of different conversations at random, and returns them in the order of the data.

    Of each conversation the last response is used. Those of a smaller count are among those of a larger one.
    """
    generator = random.Random(seed)
    chosen: list[tuple[float, int, SampleContext]] = []
    for number, conversation in enumerate(conversations):
        draw = generator.random()
        if len(chosen) == count and draw > chosen[-1][0]:
            continue
        context = _context(conversation, tokenizer, options, loss_on)
        if context is not None:
            insort(chosen, (draw, number, context), key=lambda each: each[0])
            del chosen[count:]
    return [context for _, _, context in sorted(chosen, key=lambda each: each[1])]


def _context(
    conversation: Conversation, tokenizer: ConversationTokenizer, options: GenerationOptions, loss_on: LossOn
) -> SampleContext | None:
    """Returns the last supervised turn that responds to another speaker, with its context; None without one.

    Where all turns are supervised, it is one of the speaker who responds in a chat.
    """
    speakers = conversation.turn_speakers
    if loss_on == "all":
        loss_on = DEFAULT_SPEAKERS[1] if DEFAULT_SPEAKERS[1] in speakers else "responses"
    try:
        roles = tokenizer.arrange(conversation, loss_on).roles
        supervised = supervised_turns(conversation, loss_on, roles)
        for index in range(len(speakers) - 1, conversation.pinned, -1):
            if supervised[index] and speakers[index] != speakers[index - 1]:
                turns, before = conversation.turns[:index], speakers[:index]
                context = replace(conversation, turns=turns, speakers=before, weights=None, omitted=())
                make_prompt(tokenizer, context, replace(options, reply_as=speakers[index]))
                return SampleContext(context, speakers[index], conversation.turns[index])
    except ConvModelError:  # the layout has no place for it, or its pinned turns are too long
        return None
    return None


@contextmanager
def _without_effect(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Makes a model in training ready to generate inside the block, and restores what training depends on."""
    before = random_state()
    try:
        with plain_forward(hf_model):
            yield
    finally:
        restore_random_state(before)


def _shown(place: str, speakers: Sequence[str], records: Sequence[dict[str, Any]]) -> str:
    """Returns responses as text for people: the turn that is responded to, the response, and the expected one."""
    lines = [f"{place}: responses to validation data"]
    for number, (speaker, record) in enumerate(zip(speakers, records, strict=True), 1):
        last = record["context"][-1]
        rows = [(last["role"], last["content"]), (speaker, record["response"]), ("expected", record["expected"])]
        heads = [f"{number}. ", *[" " * len(f"{number}. ")] * 2]
        lines += [f"  {head}{_line(name)}: {_line(text)}" for head, (name, text) in zip(heads, rows, strict=True)]
    return "\n".join(lines)


def _line(text: str) -> str:
    """Returns the beginning of a text in one line, without characters that control a terminal.

    Example:
        >>> _line(f"Hello{chr(10)}  you {chr(27)}[31m")
        'Hello you [31m'
    """
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    ends = [*accumulate(map(_columns, line))]
    return line if not ends or ends[-1] <= _COLUMNS else line[: bisect(ends, _COLUMNS - 1)] + "…"


def _columns(character: str) -> int:
    """Returns how many columns of a terminal a character takes."""
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in ("W", "F") else 1
