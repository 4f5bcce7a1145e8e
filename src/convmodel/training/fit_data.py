"""The data of a run: windows, their order, their batches, and whether the model supports packing.

Owns: making both sets of windows and the batches of an epoch, whose turns are their targets, the choice of the order,
and the check that a model keeps packed windows apart.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from convmodel.conversation import Conversation
from convmodel.data.windows.collate import WindowDataset, pack, pad
from convmodel.data.windows.encoding import WindowSet
from convmodel.data.windows.order import GroupedSampler, PackedSampler, ShardedBatches
from convmodel.data.windows.store import prepare_windows
from convmodel.errors import ConfigError
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.layout.architecture import SHORTEST_WINDOW, shared_length, window_length
from convmodel.layout.sequence import IGNORED, LossOn, Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import FitConfig
from convmodel.training.schedule import Schedule, require_validation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments


class Sources(NamedTuple):
    """What a run reads: its training data, and conversations to validate with and to replay, if any."""

    train: Iterable[Any]
    valid: Iterable[Conversation] | None = None
    replay: Iterable[Conversation] | None = None


@dataclass(frozen=True, slots=True)
class FitData:
    """The data of one run; `order` is that of the training windows, or of rows of packed ones."""

    train: WindowSet
    valid: WindowSet | None
    order: GroupedSampler | PackedSampler
    max_length: int

    @classmethod
    def prepare(
        cls,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        train: Iterable[Conversation],
        valid: Iterable[Conversation] | None,
        config: FitConfig,
        *,
        processes: int = 1,
    ) -> "FitData":
        """Encodes the conversations of a run.

        Raises:
            ConversationError: If the data is malformed, or has no supervised turn.
            ConfigError: If `epochs` is auto without validation data.
        """
        require_validation(config.to_dict(), validated=valid is not None)
        max_length = window_length(hf_model.config, config.max_length)
        loss_on = supervised(config.to_dict(), tokenizer.layout.loss_on)
        encode = partial(prepare_windows, tokenizer=tokenizer, max_length=max_length, loss_on=loss_on)
        windows, valid_windows = encode(train), None if valid is None else encode(valid)
        order: GroupedSampler | PackedSampler
        if config.packing:
            order = PackedSampler(windows.lengths, max_length, config.seed)
        else:
            valid_rows = 0 if valid_windows is None else len(valid_windows.windows)
            schedule = Schedule.of(config.to_dict(), len(windows.windows), valid_rows=valid_rows, processes=processes)
            per_step = schedule.settings["batch_size"] * config.gradient_accumulation_steps * processes
            order = GroupedSampler(windows.lengths, per_step, config.seed)
        return cls(windows, valid_windows, order, max_length)

    def loader(self, args: "TrainingArguments", tokenizer: ConversationTokenizer) -> DataLoader[Any]:
        """Returns the training batches of this process; `set_epoch` chooses the epoch.

        Beside the model's inputs a batch has its `windows`, and the number of its `tokens` without padding.
        """
        return _EpochLoader(
            self.dataset(args.seed),
            batch_sampler=ShardedBatches(
                self.order, args.per_device_train_batch_size, rank=args.process_index, world=args.world_size
            ),
            collate_fn=partial(self.collate, tokenizer),
            pin_memory=args.dataloader_pin_memory,
            generator=torch.Generator(),  # a loader draws a seed that it does not use; not from the run's generator
        )

    @property
    def valid_rows(self) -> int:
        """Returns the number of validation windows; 0 without validation data."""
        return 0 if self.valid is None else len(self.valid.windows)

    def left_out(self) -> str:
        """Describes what of the training data cannot be used, in a sentence; empty if everything can."""
        return self.train.summary.left_out()

    def identity(self) -> dict[str, Any]:
        """Returns what a run on this data depends on beside its windows, in JSON values."""
        return {}

    def dataset(self, seed: int) -> Any:
        """Returns the windows as rows of batches."""
        return WindowDataset(self.train.windows)

    def collate(self, tokenizer: ConversationTokenizer, rows: list[list[Any]]) -> dict[str, Any]:
        """Makes a batch of rows of the dataset."""
        types, pad_id = tokenizer.layout.use_token_types, tokenizer.pad_token_id
        windows = [window for row in rows for window in row]
        if isinstance(self.order, PackedSampler):
            batch: dict[str, Any] = pack(rows, use_token_types=types, multiple=padding_multiple(self.max_length))
        else:
            longest = max(len(window.input_ids) for window in windows)
            batch = pad(windows, pad_id, use_token_types=types, multiple=padding_multiple(longest))
        supervised = (window for window in windows if window.supervised_tokens)  # a blank row does not count
        return batch | {"windows": windows, "tokens": sum(len(window.input_ids) for window in supervised)}


class _EpochLoader(DataLoader[Any]):
    """A loader that passes the epoch on to the order of its batches, as `Trainer` expects."""

    def set_epoch(self, epoch: int) -> None:
        batches: Any = self.batch_sampler
        batches.set_epoch(epoch)


def supervised(settings: Mapping[str, Any], of_model: LossOn) -> LossOn:
    """Returns whose turns of conversations are targets, given the fields of a `FitConfig`.

    Conversations beside judgements show whether the model loses what it has learned: by default their targets are those
    of its own training, `of_model`.

    Example:
        >>> supervised({"loss_on": None, "objective": "sft"}, "responses")
        'all'
        >>> supervised({"loss_on": None, "objective": "kto"}, "responses")
        'responses'
    """
    chosen: LossOn | None = settings["loss_on"]
    if chosen is not None:
        return chosen
    return "all" if settings["objective"] == "sft" else of_model


def padding_multiple(length: int) -> int:
    """Returns the number to a multiple of which batches of about this length are padded.

    oneDNN keeps what it compiles for each shape of a product: with few lengths there are few shapes, and memory stays
    flat.
    """
    return 1 << max(0, length.bit_length() - 5)  # at most a sixteenth of the length


def require_packable(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> None:
    """Computes the logits of two short windows packed and apart, and compares them.

    Raises:
        ConfigError: If the model's architecture lets a window see the one before it.
    """
    ids = [(7 * number) % len(tokenizer) for number in range(16)]
    windows = [Window(part, [0] * len(part), [IGNORED] * len(part)) for part in (ids[:9], ids[9:])]
    types, pad_id = tokenizer.layout.use_token_types, tokenizer.pad_token_id

    def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: tensor.to(hf_model.device) for name, tensor in batch.items() if name != "labels"}
        with evaluation_mode(hf_model), torch.inference_mode():
            computed: torch.Tensor = hf_model(**inputs, use_cache=False).logits.float()
        return computed

    try:
        # Two rows, since some attention recognises packing in batches of one row only.
        rows = logits(pack([windows, windows[::-1]], use_token_types=types))
        packed = torch.cat([rows[0], rows[1, len(windows[1].input_ids) :], rows[1, : len(windows[1].input_ids)]])
    except TypeError as error:
        raise _refusal(hf_model, f"it takes no position ids ({error})") from error
    apart = torch.cat([logits(pad([window], pad_id, use_token_types=types))[0] for window in windows]).repeat(2, 1)
    # Of the largest logit; windows that see each other differ by far more.
    tolerance = 1e-3 if hf_model.dtype == torch.float32 else 0.05
    if not (packed - apart).abs().max() <= tolerance * apart.abs().max():
        raise _refusal(hf_model, "windows in one row would see each other")


def require_shared_length(hf_model: "PreTrainedModel", windows: WindowSet) -> None:
    """Checks that no window, with its padding, is so long that it changes the others of its batch.

    Raises:
        ConfigError: If one is.
    """
    limit, longest = shared_length(hf_model.config), int(windows.lengths.max())
    multiple = padding_multiple(longest)
    if limit is not None and -(-longest // multiple) * multiple > limit:
        raise ConfigError(
            f"windows of up to {longest:,} tokens, but the rotary embedding of this {hf_model.config.model_type} "
            f"(longrope) changes for all windows of a batch if one has more than {limit:,}: lower max_length to "
            f"{max(limit - limit % multiple, SHORTEST_WINDOW)}"
        )


def _refusal(hf_model: "PreTrainedModel", reason: str) -> ConfigError:
    return ConfigError(f"packing does not work with {hf_model.config.model_type}: {reason}; leave packing out")
