"""`POST /tokenize`: the prompt of a conversation, token by token.

Owns: which message each token of a prompt belongs to.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter

from convmodel.conversation import Conversation
from convmodel.generation.options import GenerationOptions
from convmodel.layout.architecture import positions
from convmodel.layout.sequence import Prompt
from convmodel.layout.token_view import marker_text, token_text
from convmodel.server.api.body import BodyRoute
from convmodel.server.api.messages import Messages, Name
from convmodel.server.api.requests import (
    Registry,
    count_characters,
    encode_prompt,
    make_options,
    read_conversation,
    spoken,
)
from convmodel.server.api.schemas import NewTokens
from convmodel.server.api.strict import Strict, Text
from convmodel.server.errors import ERRORS
from convmodel.server.serving.model_registry import ServedModel

router = APIRouter(route_class=BodyRoute)


class TokenizeRequest(Strict):
    """`POST /tokenize`: the exact prompt of a conversation."""

    model: Text
    messages: Messages
    reply_as: Name = "assistant"
    max_completion_tokens: NewTokens | None = None


@router.post("/tokenize", responses=ERRORS)
async def tokenize(body: TokenizeRequest, registry: Registry) -> dict[str, Any]:
    """Returns the exact prompt of a conversation: ids, types, pieces of text."""
    served = await registry.load(body.model)
    return await served.encoding.run(partial(_tokenize, served, body), count_characters(body.messages))


def _tokenize(served: ServedModel, body: TokenizeRequest) -> dict[str, Any]:
    conversation = read_conversation(served, body.messages)
    options = make_options(served, body.max_completion_tokens, "max_completion_tokens", reply_as=body.reply_as)
    prompt = encode_prompt(served, conversation, options)
    tokens, names = _tokens(served, conversation, options, prompt, spoken(body.messages))
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
    served: ServedModel,
    conversation: Conversation,
    options: GenerationOptions,
    prompt: Prompt,
    messages: Sequence[int],
) -> tuple[list[dict[str, Any]], list[str]]:
    tokenizer = served.model.tokenizer
    responder = tokenizer.responder(conversation, options.reply_as)
    arranged = tokenizer.arrange(conversation, responder=responder)
    names = list(dict.fromkeys((*arranged.conversation.speaker_names, responder)))
    turns = arranged.starts(len(prompt.spans))
    tokens: list[dict[str, Any]] = []
    number = 0
    for place, (token_id, token_type) in enumerate(zip(prompt.input_ids, prompt.types, strict=True)):
        while number < len(turns) and place >= prompt.spans[number][1]:
            number += 1
        is_marker = number == len(turns) or place < prompt.spans[number][0]
        tokens.append(
            {
                "id": token_id,
                "text": (marker_text if is_marker else token_text)(tokenizer, token_id),
                "type": token_type,
                "speaker": names[token_type],
                "turn": messages[turns[number]] if number < len(turns) else None,
                "separator": is_marker,
            }
        )
    return tokens, names
