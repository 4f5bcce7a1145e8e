"""The data of a run that learns from judgements: batches of judged responses, and conversations that are replayed.

Owns: which windows a judgement brings into a batch, and how a batch says what each window is. The order of judgements
and the sharing among processes are those of other runs.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from convmodel.conversation import Conversation
from convmodel.data.judgements.reader import JudgementReader, latest_thumbs, of_other_models
from convmodel.data.judgements.windows import Example, ExampleSet, encode_judgements, without_targets
from convmodel.data.windows.collate import pack, pad, segments
from convmodel.data.windows.encoding import WindowSet, windows_hash
from convmodel.data.windows.order import Blank, GroupedSampler, PackedSampler
from convmodel.data.windows.store import prepare_windows
from convmodel.errors import ConversationError
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.layout.architecture import window_length
from convmodel.layout.markers import TOOL
from convmodel.layout.sequence import Window, encoded_turns, named_speakers, supervised_turns
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.windows import required_length
from convmodel.training.config import PAIRS_ONLY, FitConfig
from convmodel.training.fit_data import FitData, Sources, padding_multiple, require_shared_length, supervised
from convmodel.training.schedule import BATCH_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


REPLAY_LENGTH = 128
"""Tokens of a window to replay, or as many as the longest judged response has with its context, beside what the window
must have: longer ones would take most of a step's time."""


class BatchItem(NamedTuple):
    """A judgement in a batch, and what is replayed beside it; a blank one fills up a batch and counts nothing."""

    example: Example
    replayed: Window | None
    is_blank: bool = False


@dataclass(frozen=True, slots=True)
class PreferenceData(FitData):
    """The data of a run that learns from judgements; `train` holds the windows of all responses."""

    examples: ExampleSet = field(kw_only=True)
    replay: WindowSet | None = field(default=None, kw_only=True)
    skipped: str = field(default="", kw_only=True)  # what the reader left out

    @classmethod
    def of(
        cls,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        sources: Sources,
        config: FitConfig,
        *,
        processes: int = 1,
    ) -> "PreferenceData":
        """Encodes the judgements of a run, its validation data, and the conversations to replay, in this order.

        Raises:
            ConversationError: If the data is malformed, or no judgement can be used.
        """
        max_length = window_length(hf_model.config, config.max_length)
        judgements, replaced = latest_thumbs(sources.train)
        if others := of_other_models(judgements, model_fingerprint(hf_model)):
            logger.warning(
                "%d of %d judgements are of responses that another model wrote (or this one, quantized or before it "
                "was trained): they teach less than judgements of its own",
                others,
                len(judgements),
            )
        examples = encode_judgements(
            judgements,
            tokenizer,
            max_length=max_length,
            pairs_only=config.objective in PAIRS_ONLY,
            mismatched=config.objective == "kto",
        )
        encode = partial(_encoded, tokenizer=tokenizer, config=config)
        replay, lengths = None, examples.lengths()
        if sources.replay is not None:
            replay_length = max(REPLAY_LENGTH, int(examples.windows.lengths.max()))
            replay_length += max((_required(each, tokenizer) for each in sources.replay), default=0)
            replay = encode("replay", sources.replay, max_length=min(max_length, replay_length))
            require_shared_length(hf_model, replay)
            lengths = lengths + int(replay.lengths.max())  # each judgement brings one
        order: GroupedSampler | PackedSampler
        if config.packing:
            order = PackedSampler(lengths, max(max_length, int(lengths.max())), config.seed)
        else:
            per_step = (config.batch_size or BATCH_SIZE) * config.gradient_accumulation_steps * processes
            order = GroupedSampler(lengths, per_step, config.seed)
        reader = sources.train
        skipped = [reader.left_out()] if isinstance(reader, JudgementReader) else []
        if replaced:
            skipped.append(f"{replaced:,} thumbs were replaced by later ones on the same responses")
        return cls(
            examples.windows,
            None if sources.valid is None else encode("validation", sources.valid, max_length=max_length),
            order,
            max_length,
            examples=examples,
            skipped="; ".join(filter(None, skipped)),
            replay=replay,
        )

    def left_out(self) -> str:
        """Describes the judgements that are not used, in a sentence; empty if all are."""
        return "; ".join(filter(None, (self.skipped, self.examples.left_out)))

    def identity(self) -> dict[str, Any]:
        """Returns what a run on this data depends on beside the windows of the responses, in JSON values."""
        judged = hashlib.sha256(repr([*self.examples.examples]).encode()).hexdigest()[:12]
        return {"judgements": judged, "replayed data": None if self.replay is None else windows_hash(self.replay)}

    def dataset(self, seed: int) -> "JudgementDataset":
        """Returns the judgements as rows of batches."""
        return JudgementDataset(self, seed)

    def collate(self, tokenizer: ConversationTokenizer, rows: list[list[BatchItem]]) -> dict[str, Any]:
        """Makes a batch: the model's inputs, and what each window is, for the objective.

        Beside the keys of `FitData`'s batches there are `segments`, and under `judged` tensors: `numbers` (of each
        window among all, -1 if it is replayed), `sizes` (its targets; of a replayed one their weight), `chosen` and
        `rejected` (each judgement's windows in this batch, -1 for none) and `weights`. For KTO, `mismatched` is a batch
        of its own.
        """
        pad_to = partial(pad, pad_id=tokenizer.pad_token_id, use_token_types=tokenizer.layout.use_token_types)
        groups, judged = self._arrange(rows)
        windows = [window for group in groups for window in group]
        if isinstance(self.order, PackedSampler):
            multiple = padding_multiple(max(sum(len(window.input_ids) for window in group) for group in groups))
            batch = pack(groups, use_token_types=tokenizer.layout.use_token_types, multiple=multiple)
        else:
            groups = [[window] for window in windows]
            batch = pad_to(windows, multiple=_multiple_of(windows))
        inputs: dict[str, Any] = batch | {"segments": segments(groups, batch["input_ids"].shape[1]), "judged": judged}
        if self.examples.mismatched is not None:
            numbers = [(number, item.is_blank) for row in rows for item in row for number in item.example.numbers]
            others = [
                without_targets(self.examples.mismatched[n]) if b else self.examples.mismatched[n] for n, b in numbers
            ]
            other = pad_to(others, multiple=_multiple_of(others))
            inputs["mismatched"] = other | {
                "segments": segments([[one] for one in others], other["input_ids"].shape[1])
            }
        supervised = (window for window in windows if window.supervised_tokens)  # a blank one does not count
        return inputs | {"windows": windows, "tokens": sum(len(window.input_ids) for window in supervised)}

    def _arrange(self, rows: list[list[BatchItem]]) -> tuple[list[list[Window]], dict[str, torch.Tensor]]:
        """Returns the windows of each row, and what they are."""
        groups: list[list[Window]] = []
        numbers: list[int] = []
        places: list[tuple[int, int, float]] = []
        for row in rows:
            group: list[Window] = []
            for example, replayed, is_blank in row:
                place = {number: len(numbers) + offset for offset, number in enumerate(example.numbers)}
                chosen, rejected = (-1 if n is None else place[n] for n in (example.chosen, example.rejected))
                places.append((chosen, rejected, 0.0 if is_blank else example.weight))
                found = [self.train.windows[number] for number in example.numbers]
                numbers += [*example.numbers, *([] if replayed is None else [-1])]
                found += [] if replayed is None else [replayed]
                group += map(without_targets, found) if is_blank else found
            groups.append(group)
        sizes = [float(sum(w.weights) if w.weights else w.supervised_tokens) for group in groups for w in group]
        chosen_at, rejected_at, weights = zip(*places, strict=True)
        return groups, {
            "numbers": torch.tensor(numbers),
            "sizes": torch.tensor(sizes, dtype=torch.float32),
            "chosen": torch.tensor(chosen_at),
            "rejected": torch.tensor(rejected_at),
            "weights": torch.tensor(weights, dtype=torch.float32),
        }


class JudgementDataset(torch.utils.data.Dataset[list[BatchItem]]):
    """Rows of judgements for transformers' `Trainer`: an item is one judgement, or those of one packed row.

    Each brings one window to replay, if there are any; all of them are replayed before any comes again.
    """

    def __init__(self, data: PreferenceData, seed: int) -> None:
        self._examples = data.examples.examples
        self._replay = None if data.replay is None else data.replay.windows
        self._seed = seed
        self._orders: dict[int, list[int]] = {}  # of the windows to replay, by how often all have been replayed
        self._sampler = data.order  # which knows the epoch, also of a run that resumes within one

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int | tuple[int, ...] | Blank) -> list[BatchItem]:
        if isinstance(index, Blank):
            return [item._replace(is_blank=True) for item in self[index.row]]
        return [BatchItem(self._examples[i], self._replayed(i)) for i in ([index] if isinstance(index, int) else index)]

    def _replayed(self, index: int) -> Window | None:
        if self._replay is None:
            return None
        turn = self._sampler.epoch * len(self._examples) + index
        cycle, place = divmod(turn, len(self._replay))
        if cycle not in self._orders:
            random = np.random.default_rng([self._seed, cycle])
            self._orders[cycle] = random.permutation(len(self._replay)).tolist()
        return self._replay[self._orders[cycle][place]]


def _encoded(
    name: str,
    conversations: Iterable[Conversation],
    *,
    tokenizer: ConversationTokenizer,
    config: FitConfig,
    max_length: int,
) -> WindowSet:
    """Encodes conversations whose targets are those of the model's own training, unless `loss_on` names others."""
    loss_on = supervised(config.to_dict(), tokenizer.layout.loss_on)
    names = set(named_speakers(loss_on))
    is_own = loss_on == tokenizer.layout.loss_on
    # A model that learned to be Ann may be improved on conversations of user and assistant, such as the sample's.
    if names and is_own and not any(names & {*each.turn_speakers} for each in conversations):
        logger.warning(
            "%s data: none of its speakers is %s, from whom the model learned: all turns are supervised, unless "
            "loss_on names others",
            name,
            " or ".join(sorted(names)),
        )
        loss_on = "all"
    return prepare_windows(conversations, tokenizer, max_length=max_length, loss_on=loss_on)


def _required(conversation: Conversation, tokenizer: ConversationTokenizer) -> int:
    """Returns how many tokens of a conversation's windows are taken by pinned turns, or by a call and its result."""
    if not conversation.pinned and TOOL not in conversation.turn_speakers:
        return 0
    try:
        arranged = tokenizer.arrange(conversation)
    except ConversationError:
        return 0  # the encoding reports it, with its place
    ids = map(tokenizer.encode, arranged.conversation.turns)
    supervised = supervised_turns(arranged.conversation, "all", arranged.roles)
    turns = encoded_turns(arranged.conversation, ids, arranged.roles, supervised)
    return required_length(turns, tokenizer.layout.markers)


def _multiple_of(windows: Sequence[Window]) -> int:
    return padding_multiple(max(len(window.input_ids) for window in windows))
