"""The prompt of a conversation, token by token.

Owns: which message each token of a prompt belongs to.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from convmodel.conversation import Conversation
from convmodel.generation.options import GenerationOptions
from convmodel.generation.respond import make_prompt
from convmodel.layout.architecture import positions
from convmodel.layout.sequence import Prompt
from convmodel.layout.token_view import token_text
from convmodel.server.api.requests import make_options, read_conversation
from convmodel.server.api.schemas import TokenizeRequest
from convmodel.server.serving.model_registry import Served


def tokenize(served: Served, asked: TokenizeRequest) -> dict[str, Any]:
    """Shows the tokens of the prompt that a response would go on with.

    Raises:
        ApiError, ConversationError, ContextTooLongError: As a response would.
    """
    conversation = read_conversation(served, asked.messages)
    options = make_options(served, asked.max_completion_tokens, "max_completion_tokens", reply_as=asked.reply_as)
    prompt = make_prompt(served.model.tokenizer, conversation, options)
    tokens, names = _tokens(served, conversation, options, prompt)
    return {
        "object": "tokens",
        "model": served.id,
        "count": len(prompt.input_ids),
        "budget": options.budget,
        "positions": positions(served.model.hf_model.config),
        "left_out": prompt.left_out,
        "cut": prompt.cut,
        "speakers": names,
        "tokens": tokens,
    }


def _tokens(
    served: Served, conversation: Conversation, options: GenerationOptions, prompt: Prompt
) -> tuple[list[dict[str, Any]], list[str]]:
    tokenizer = served.model.tokenizer
    arranged = conversation if tokenizer.layout.use_token_types else conversation.joined()
    names = list(dict.fromkeys((*arranged.speaker_names, tokenizer.responder(conversation, options.reply_as))))
    turns = _turns(conversation, arranged, sum(index == tokenizer.sep_token_id for index in prompt.input_ids) - 1)
    shown: list[dict[str, Any]] = []
    number = -1
    for index, kind in zip(prompt.input_ids, prompt.types, strict=True):
        is_separator = index == tokenizer.sep_token_id  # no text has its id
        number += is_separator
        shown.append(
            {
                "id": index,
                "text": tokenizer.sep_token if is_separator else token_text(tokenizer, index),
                "type": kind,
                "speaker": names[kind],
                "turn": turns[number] if number < len(turns) else None,
                "separator": is_separator,
            }
        )
    return shown, names


def _turns(conversation: Conversation, arranged: Conversation, kept: int) -> Sequence[int]:
    """Returns the first message of each turn that a prompt keeps: the pinned ones, and the newest others."""
    starts = [*range(len(conversation.turns))]
    if len(arranged.turns) < len(starts):
        starts = [0, *accumulate(conversation.run_lengths())][:-1]
    newest = kept - arranged.pinned
    return [*starts[: arranged.pinned], *starts[len(starts) - newest :]]
