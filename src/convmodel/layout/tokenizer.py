"""Conversations to token ids and back: the layout applied to text.

Owns: prompts and windows of conversations, and saving the tokenizer. `sequence` and `windows` own the positions of ids,
`choosing` which layout a tokenizer gets. Knows nothing about weights.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConfigError
from convmodel.files.hub import name_of
from convmodel.layout.arranging import Arrangement, arrange, require_no_user_named
from convmodel.layout.choosing import LayoutName, choose_layout, require_saved, with_names
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import ASSISTANT
from convmodel.layout.prompts import prompt_of, prompt_to_continue, responder_of, window_of_response
from convmodel.layout.separator import PROBE, chat_template
from convmodel.layout.sequence import LossOn, Prompt, Window, encoded_turns, supervised_turns
from convmodel.layout.text_codec import TextCodec
from convmodel.layout.tokenizer_files import load_tokenizer, save_tokenizer, takes_token_types
from convmodel.layout.windows import CONTEXT_SHARE, make_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ConversationTokenizer:
    """Encodes conversations in the one layout that training, evaluation, chat and serving share.

    Attributes:
        layout: The part of the layout that is saved with a checkpoint: control tokens, token types, speakers.
        layout_reason: Why it is this layout, in a few words.
        hf_tokenizer: The Hugging Face tokenizer, for decoding and saving; a separator is its `sep_token`.
        separator_added: Whether `<sep>` was added to the vocabulary here, so that the model needs a row for it.
        end_of_text_id: The base's end-of-text token, which ends a response, too; None if it ends a turn anyway.
        most_characters: How many characters of a text one token can stand for at most; None if that is uncertain.
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
        layout: LayoutConfig | LayoutName = "auto",
        use_token_types: bool = True,
        names: str | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        """Wraps a Hugging Face tokenizer, in the separator layout sets its separator and chat template.

        Args:
            hf_tokenizer: A tokenizer backed by the `tokenizers` library.
            layout: A checkpoint's layout, or the name of one as for `from_pretrained`.
            use_token_types: Whether encodings have token types, in the separator layout that is chosen here.
            names: In the template layout, `prefix` as for `from_pretrained`.
            stop_ids: In the template layout, further ids that end a response, such as the generation config's.

        Raises:
            ModelLoadError: If the tokenizer does not match the layout, or its chat template cannot be used.
        """
        self.layout_was_saved, self.separator_added = isinstance(layout, LayoutConfig), False
        self.layout_reason = "saved with the model"
        if not isinstance(layout, LayoutConfig):
            choice = choose_layout(hf_tokenizer, layout, use_token_types=use_token_types)
            layout, self.layout_reason, self.separator_added = choice
        layout.require_match(hf_tokenizer)
        self.hf_tokenizer: Any = hf_tokenizer
        self.layout: LayoutConfig = with_names(layout, names, tuple(stop_ids))
        self.end_of_text_id = layout.end_of_text_id
        if hf_tokenizer.eos_token_id not in (None, *self.end_ids):  # not saved by this version
            self.end_of_text_id = hf_tokenizer.eos_token_id
        if not self.layout_was_saved:
            self.layout = replace(self.layout, end_of_text_id=self.end_of_text_id)
        self._codec = TextCodec(hf_tokenizer, self.layout, self.stop_token_ids)
        self.most_characters = self._codec.most_characters
        if layout.separator_id is not None:
            ids = self(Conversation.from_messages(PROBE))["input_ids"]
            joins, bos = not layout.use_token_types, layout.bos_id is not None
            self.hf_tokenizer.chat_template = chat_template(hf_tokenizer, PROBE, ids, joins=joins, bos=bos)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        layout: LayoutName = "auto",
        names: str | None = None,
        use_token_types: bool | None = None,
        **hub_options: Any,
    ) -> "ConversationTokenizer":
        """Loads the tokenizer of a saved conversation model, or of any Hugging Face causal language model.

        Args:
            name_or_path: A folder, a GGUF file, a Hub id, or `builtin:chitchat`.
            layout: `separator`, `template` (measured from the model's own chat template), or `auto`: the saved one,
                else the template's if it can be used, else the separator's.
            names: In the template layout, `prefix` puts the names of all speakers but the assistant before their
                texts; by default, more than two speakers are an error.
            use_token_types: Whether encodings have token types; by default as saved with the checkpoint, else in the
                separator layout if the architecture embeds them or there is only a tokenizer.
            **hub_options: `revision`, `token`, `cache_dir`, `local_files_only` and the like.

        Raises:
            ModelLoadError: If there is no tokenizer, or this version does not support its layout.
        """
        if not isinstance(use_token_types, bool | None):
            raise ConfigError(f"use_token_types is {use_token_types!r}: it must be true or false")
        name = name_of(name_or_path)
        hf_tokenizer, saved, stop_ids = load_tokenizer(name, hub_options)
        if saved is None:
            types = takes_token_types(name, hub_options) if use_token_types is None else use_token_types
            return cls(hf_tokenizer, layout=layout, use_token_types=types, names=names, stop_ids=stop_ids)
        require_saved(name, saved, layout, use_token_types)
        return cls(hf_tokenizer, layout=saved, names=names)

    def describe_layout(self) -> str:
        """Returns the name of the layout and why it is this one."""
        return f"{self.layout.name} ({self.layout_reason})"

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a turn; no text has them."""
        return self.layout.markers.end_ids

    @property
    def end_token_id(self) -> int:
        """The id that ends a response."""
        return self.layout.markers.end(ASSISTANT)

    @property
    def sep_token(self) -> str:
        """The separator as text, for display; empty in the template layout."""
        return self.layout.separator_token or ""

    @property
    def sep_token_id(self) -> int | None:
        """The separator's id; None in the template layout."""
        return self.layout.separator_id

    @property
    def pad_token_id(self) -> int:
        """The id that fills padding, which is masked and never a label."""
        index = self.hf_tokenizer.pad_token_id
        # Some pad tokens were added to the tokenizer only and have no row in the embedding.
        return self.end_token_id if index is None or index >= self.hf_tokenizer.vocab_size else int(index)

    @property
    def stop_token_ids(self) -> list[int]:
        """The ids that end a response: first the layout's, then the base's own, such as its end-of-text token."""
        ids = (self.end_token_id, *sorted(self.end_ids), self.end_of_text_id, *self.layout.stop_ids)
        return list(dict.fromkeys(index for index in ids if index is not None))

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
        return self._codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes tokens to text, without special tokens."""
        return self._codec.decode(ids)

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
        conversation = Conversation.of(context)
        options: dict[str, Any] = {"budget": budget, "cut": cut_long_turn, "spare": spare}
        responder = self.responder(conversation, reply_as)
        return prompt_of(conversation, responder, self.layout, self._codec, **options)

    def prompt_to_continue(self, text: str) -> Prompt:
        """Encodes the beginning of a first turn as the prompt for the rest of that turn."""
        return prompt_to_continue(text, self.layout, self._codec)

    def window_of_response(self, ids: Sequence[int], *, is_closed: bool) -> Window:
        """Lays out the tokens of a response as the first turn of a conversation, all supervised."""
        return window_of_response(ids, self.layout, is_closed=is_closed)

    def responder(self, context: Conversation, reply_as: str | None = None) -> str:
        """Returns the speaker of the response to a context: `reply_as`, or by default the expected one.

        Raises:
            ConversationError: If the model takes no token types, and this speaker spoke last or is the third; with
                names before texts, if the turn before is of the same role.
        """
        return responder_of(context, reply_as, self.layout)

    def arrange(
        self, conversation: Conversation, loss_on: LossOn | None = None, *, responder: str | None = None
    ) -> Arrangement:
        """Returns a conversation as the layout holds it, or raises a `ConversationError`; see `Arrangement`."""
        return arrange(conversation, self.layout, loss_on=loss_on or self.layout.loss_on, responder=responder)

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
            loss_on: Whose turns are supervised: `all`, `responses` (see `supervised_turns`), `last`, or names.
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
        options: dict[str, Any] = {"max_length": max_length, "context_share": context_share}
        options["text_bytes"] = self._codec.count_bytes
        markers = self.layout.markers
        arranged = [arrange(conversation, self.layout, loss_on=loss_on) for conversation in conversations]
        ids, result = iter(self._codec.encode_turns(arranged)), []
        for given, each in zip(conversations, arranged, strict=True):
            require_no_user_named(given, each, self.layout, loss_on)
            conversation = each.conversation
            turns = encoded_turns(conversation, ids, each.roles, supervised_turns(conversation, loss_on, each.roles))
            types = [*conversation.speaker_names, responder := conversation.next_speaker()]
            windows = [*make_windows(turns, markers, types.index(responder), **options)]
            if each.dropped:
                windows[:1] = [replace(window, dropped=each.dropped) for window in windows[:1]]
            result.append(windows)
        return result

    def with_layout(self, **changes: Any) -> "ConversationTokenizer":
        """Returns a tokenizer that shares everything with this one except the given fields of its layout."""
        changed = copy.copy(self)
        changed.layout = replace(self.layout, **changes)
        return changed

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes Hugging Face's files, which plain `AutoTokenizer` loads with the same ids, and the layout.

        In these files the end-of-text token is the one that ends a response.

        Raises:
            SaveError: If the folder cannot be written.
        """
        layout = replace(self.layout, end_of_text_id=self.end_of_text_id)
        save_tokenizer(self.hf_tokenizer, layout, self.end_token_id, folder)
