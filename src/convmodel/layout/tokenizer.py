"""Conversations to token ids and back: the layout applied to text.

Owns: prompts and windows of conversations, and saving the tokenizer. `sequence` and `windows` own the positions of ids.
Knows nothing about weights.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConfigError, ModelLoadError
from convmodel.files.atomic import staged
from convmodel.files.hub import name_of
from convmodel.layout.config import FILE_NAME, LayoutConfig
from convmodel.layout.separator import PROBE, chat_template, choose_bos, choose_separator
from convmodel.layout.sequence import (
    IGNORED,
    EncodedTurn,
    LossOn,
    Prompt,
    Window,
    begin_turn,
    build_prompt,
    encoded_turns,
    joined_for_two,
    require_alternation,
    supervised_turns,
)
from convmodel.layout.text_encoder import encode_all, encoder_and_bound, is_text
from convmodel.layout.tokenizer_files import load_tokenizer, takes_token_types
from convmodel.layout.windows import CONTEXT_SHARE, make_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Decoding's replacement for bytes that are not a whole character."""


class ConversationTokenizer:
    """Encodes conversations in the one layout that training, evaluation, chat and serving share.

    Attributes:
        layout: The part of the layout that is saved with a checkpoint: control tokens, token types, speakers.
        hf_tokenizer: The Hugging Face tokenizer, for decoding and saving; its `sep_token` has the separator's id.
        separator_added: Whether `<sep>` was added to the vocabulary here, so that the model needs a row for it.
        end_of_text_id: The base's end-of-text token, which ends a response, too; None if it is the separator.
        layout_was_saved: Whether the layout came with a checkpoint, so that the model must match it.

    Example:
        >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
        >>> tokenizer(["Hello", "How are you"])["input_ids"]
        [50256, 15496, 50256, 2437, 389, 345, 50256]
    """

    def __init__(
        self,
        hf_tokenizer: "PreTrainedTokenizerBase",
        *,
        layout: LayoutConfig | None = None,
        use_token_types: bool = True,
    ) -> None:
        """Wraps a Hugging Face tokenizer and sets its separator and chat template.

        Args:
            hf_tokenizer: A tokenizer backed by the `tokenizers` library.
            layout: A checkpoint's layout; by default the separator is chosen here.
            use_token_types: Whether encodings have token types; ignored if a layout is given.

        Raises:
            ModelLoadError: If the tokenizer does not match the layout.
        """
        self.layout_was_saved, self.separator_added = layout is not None, False
        if layout is None:
            token, index, self.separator_added = choose_separator(hf_tokenizer)
            layout = LayoutConfig(index, token, use_token_types, bos_id=choose_bos(hf_tokenizer, index))
        layout.require_match(hf_tokenizer)
        self.end_of_text_id = layout.end_of_text_id
        if hf_tokenizer.eos_token_id not in (None, layout.separator_id):  # not saved by this version
            self.end_of_text_id = hf_tokenizer.eos_token_id
        if not self.layout_was_saved:
            layout = replace(layout, end_of_text_id=self.end_of_text_id)
        self.hf_tokenizer: Any = hf_tokenizer
        self.layout: LayoutConfig = layout
        self._encoder, self.most_characters = encoder_and_bound(hf_tokenizer)
        # The end-of-text token may no longer be one of the tokenizer's special tokens; see `save_pretrained`.
        special = {*hf_tokenizer.all_special_ids, *self.stop_token_ids}
        tokens = {index: str(hf_tokenizer.convert_ids_to_tokens(index)) for index in special}
        self._control_ids = frozenset(index for index, token in tokens.items() if not is_text(token))
        ids = self(Conversation.from_messages(PROBE))["input_ids"]
        joins, bos = not layout.use_token_types, layout.bos_id is not None
        self.hf_tokenizer.chat_template = chat_template(hf_tokenizer, PROBE, ids, joins=joins, bos=bos)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, use_token_types: bool | None = None, **hub_options: Any
    ) -> "ConversationTokenizer":
        """Loads the tokenizer of a saved conversation model, or of any Hugging Face causal language model.

        Args:
            name_or_path: A folder, a Hub id, or `builtin:chitchat`.
            use_token_types: Whether encodings have token types; by default as saved with the checkpoint, else True if
                the architecture embeds them or there is only a tokenizer.
            **hub_options: `revision`, `token`, `cache_dir`, `local_files_only` and the like.

        Raises:
            ModelLoadError: If there is no tokenizer, or this version does not support its layout.
        """
        if not isinstance(use_token_types, bool | None):
            raise ConfigError(f"use_token_types is {use_token_types!r}: it must be true or false")
        name = name_of(name_or_path)
        hf_tokenizer, layout = load_tokenizer(name, hub_options)
        if layout is None:
            types = takes_token_types(name, hub_options) if use_token_types is None else use_token_types
            return cls(hf_tokenizer, use_token_types=types)
        if use_token_types not in (None, layout.use_token_types):
            raise ModelLoadError(
                f"{name} was trained with use_token_types={layout.use_token_types}: leave the argument out"
            )
        return cls(hf_tokenizer, layout=layout)

    @property
    def sep_token(self) -> str:
        """The separator as text, for display."""
        return self.layout.separator_token

    @property
    def sep_token_id(self) -> int:
        """The separator's id."""
        return self.layout.separator_id

    @property
    def pad_token_id(self) -> int:
        """The id that fills padding, which is masked and never a label."""
        index = self.hf_tokenizer.pad_token_id
        # Some pad tokens were added to the tokenizer only and have no row in the embedding.
        return self.sep_token_id if index is None or index >= self.hf_tokenizer.vocab_size else int(index)

    @property
    def stop_token_ids(self) -> list[int]:
        """The ids that end a response: the separator, and the tokenizer's own end-of-text token."""
        return [i for i in (self.sep_token_id, self.end_of_text_id) if i is not None]

    def __len__(self) -> int:
        """Returns the number of vocabulary entries, including added tokens."""
        return len(self.hf_tokenizer)

    def __call__(self, context: ConversationLike, *, reply_as: str | None = None) -> dict[str, list[int]]:
        """Encodes a context as the prompt for a response.

        Args:
            context: The turns so far.
            reply_as: The speaker of the response; by default the expected one.

        Returns:
            Lists of equal length: `input_ids`, `token_type_ids` if the model takes them, `attention_mask`.

        Raises:
            ConversationError: If the context is malformed.

        Example:
            >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
            >>> tokenizer(["Hello"])
            {'input_ids': [50256, 15496, 50256], 'token_type_ids': [0, 0, 1], 'attention_mask': [1, 1, 1]}
        """
        prompt = self.prompt(context, reply_as=reply_as)
        types = {"token_type_ids": prompt.types} if self.layout.use_token_types else {}
        return {"input_ids": prompt.input_ids} | types | {"attention_mask": [1] * len(prompt.input_ids)}

    def encode(self, text: str) -> list[int]:
        """Encodes the text of a turn as ordinary tokens, even if it contains the text of control tokens.

        Example:
            >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
            >>> tokenizer.encode("How are you"), tokenizer.decode([2437, 389, 345])
            ([2437, 389, 345], 'How are you')
        """
        return encode_all(self._encoder, [text])[0]  # `Tokenizer.encode` would keep other threads from running

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes tokens to text, without special tokens."""
        text = [index for index in ids if index not in self._control_ids]
        return str(self.hf_tokenizer.decode(text, clean_up_tokenization_spaces=False))

    def prompt(
        self,
        context: ConversationLike,
        *,
        reply_as: str | None = None,
        budget: int | None = None,
        cut_long_turn: bool = False,
        spare: float = 0.0,
    ) -> Prompt:
        """Encodes a context as the prompt for a response, leaving out the oldest whole turns until it fits.

        Args:
            context: The turns so far.
            reply_as: The speaker of the response; by default the expected one.
            budget: The limit of the prompt in tokens; by default none.
            cut_long_turn: Whether to cut the beginning of a newest turn that alone is too long.
            spare: When turns must be left out, leave out enough to free this share of the budget.

        Raises:
            ConversationError: If the context is malformed, or `responder` raises it.
            ContextTooLongError: If the newest turn alone is too long and may not be cut.

        Example:
            >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
            >>> tokenizer.prompt(["Hello", "How are you"], budget=6).left_out
            1
        """
        original = replace(Conversation.of(context), weights=None)  # weights are for training only
        conversation = self._arranged(original)
        types = [*conversation.speaker_names, responder := self.responder(conversation, reply_as)]
        turns = encoded_turns(conversation, encode_all(self._encoder, conversation.turns))
        options: dict[str, Any] = {"budget": budget, "cut": cut_long_turn, "spare": spare, "bos": self.layout.bos_id}
        prompt = build_prompt(turns, self.sep_token_id, types.index(responder), **options)
        if self.layout.use_token_types:
            return prompt
        joined = original.run_lengths()[conversation.pinned :]
        return replace(prompt, left_out=sum(joined[: prompt.left_out]))

    def prompt_to_continue(self, text: str) -> Prompt:
        """Encodes the beginning of a first turn as the prompt for the rest of that turn."""
        return begin_turn(self.encode(text), self.sep_token_id, bos=self.layout.bos_id)

    def window_of_response(self, ids: Sequence[int], *, is_closed: bool) -> Window:
        """Lays out the tokens of a response as the first turn of a conversation, all supervised.

        Its closing separator is a target only if the response `is_closed`.
        """
        turn, length = EncodedTurn(ids, 0, supervised=True), self.layout.shortest_prompt + len(ids)
        [window] = make_windows([turn], self.sep_token_id, 0, max_length=length, bos=self.layout.bos_id)
        return window if is_closed else replace(window, labels=[*window.labels[:-1], IGNORED])

    def responder(self, context: Conversation, reply_as: str | None = None) -> str:
        """Returns the speaker of the response to a context: `reply_as`, or by default the expected one.

        Raises:
            ConversationError: If the model takes no token types, and this speaker spoke last or is the third.
        """
        responder = reply_as or context.next_speaker()
        if not self.layout.use_token_types:
            require_alternation(context, responder)
        return responder

    def windows(
        self,
        conversation: ConversationLike,
        *,
        max_length: int,
        loss_on: LossOn = "all",
        context_share: float = CONTEXT_SHARE,
    ) -> list[Window]:
        """Encodes a conversation for training or evaluation; every supervised turn is supervised exactly once.

        Args:
            conversation: The whole conversation.
            max_length: The limit of a window in tokens.
            loss_on: Whose turns are supervised: `all`, `responses` (every second speaker's), `last`, or names.
            context_share: The share of a window that unsupervised context may take.

        Returns:
            The windows; none if no turn is supervised.

        Raises:
            ConversationError: If the conversation is malformed.
            ConfigError: If `loss_on` is invalid.

        Example:
            >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
            >>> [window] = tokenizer.windows(["Hello", "How are you"], max_length=1024)
            >>> window.labels
            [-100, 15496, 50256, 2437, 389, 345, 50256]
        """
        options: dict[str, Any] = {"max_length": max_length, "loss_on": loss_on, "context_share": context_share}
        return self.windows_batch([Conversation.of(conversation)], **options)[0]

    def windows_batch(
        self,
        conversations: Sequence[Conversation],
        *,
        max_length: int,
        loss_on: LossOn = "all",
        context_share: float = CONTEXT_SHARE,
    ) -> list[list[Window]]:
        """Returns the windows of each of many conversations; encoding their turns together is faster."""
        options: dict[str, Any] = {
            "max_length": max_length,
            "bos": self.layout.bos_id,
            "context_share": context_share,
            "text_bytes": lambda ids: len(self.decode(ids).rstrip(REPLACEMENT).encode()),
        }
        arranged = [self._arranged(conversation) for conversation in conversations]
        ids = iter(encode_all(self._encoder, [turn for conversation in arranged for turn in conversation.turns]))
        result = []
        for conversation in arranged:
            turns = encoded_turns(conversation, ids, supervised_turns(conversation, loss_on))
            types = [*conversation.speaker_names, responder := conversation.next_speaker()]
            result.append([*make_windows(turns, self.sep_token_id, types.index(responder), **options)])
        return result

    def with_layout(self, **changes: Any) -> "ConversationTokenizer":
        """Returns a tokenizer that shares everything with this one except the given fields of its layout."""
        changed = copy.copy(self)
        changed.layout = replace(self.layout, **changes)
        return changed

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes Hugging Face's files, which plain `AutoTokenizer` loads with the same ids, and the layout.

        In these files the end-of-text token is the separator, so that other programs find the end of a response in it.

        Raises:
            SaveError: If the folder cannot be written.
        """
        with staged(folder) as stage:
            end_of_text, self.hf_tokenizer.eos_token = self.hf_tokenizer.eos_token, self.hf_tokenizer.sep_token
            try:
                self.hf_tokenizer.save_pretrained(stage)
            finally:
                self.hf_tokenizer.eos_token = end_of_text
            layout = replace(self.layout, end_of_text_id=self.end_of_text_id)
            (stage / FILE_NAME).write_text(layout.to_json(), encoding="utf-8")

    def _arranged(self, conversation: Conversation) -> Conversation:
        return conversation if self.layout.use_token_types else joined_for_two(conversation)
