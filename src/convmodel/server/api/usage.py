"""Token counts and log-probabilities in the form of OpenAI's API.

Owns: the `usage` object, and log-probabilities per token.
"""

from collections.abc import Sequence
from typing import Any

from convmodel.layout.token_view import token_bytes
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.server.serving.job import Job, Piece


def usage(jobs: Sequence[Job]) -> dict[str, Any]:
    """Counts tokens; fields that OpenAI's API does not have are under `convmodel`."""
    prompt = sum(len(job.request.ids) for job in jobs)
    completion = sum(job.completion_tokens for job in jobs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(job.request.cached_tokens for job in jobs)},
        "convmodel": _timings(jobs[0]),
    }


def _timings(job: Job) -> dict[str, Any]:
    begun, first, speed = job.begun_at, job.first_at, job.tokens_per_second
    return {
        "left_out": job.left_out,
        "cut": job.cut,
        "queue_seconds": None if begun is None else round(begun - job.arrived, 4),
        "first_token_seconds": None if first is None else round(first - job.arrived, 4),
        "tokens_per_second": None if speed is None else round(speed, 2),
    }


def chat_logprobs(tokenizer: ConversationTokenizer, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Returns the log-probabilities of pieces as chat completions have them: one object per token."""
    content = [
        _token(tokenizer, token_id, value)
        | {"top_logprobs": [_token(tokenizer, other_id, other_value) for other_id, other_value in alternatives]}
        for piece in pieces
        for token_id, value, alternatives in _tokens(piece)
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokenizer: ConversationTokenizer, pieces: Sequence[Piece], offset: int) -> dict[str, Any]:
    """Returns the log-probabilities of pieces as completions have them: lists of equal length.

    `offset` is where the text of the first token begins.
    """
    logprobs: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for piece in pieces:
        for token_id, value, alternatives in _tokens(piece):
            text = _text(token_bytes(tokenizer, token_id))
            logprobs["tokens"].append(text)
            logprobs["token_logprobs"].append(value)
            likeliest = {_text(token_bytes(tokenizer, other_id)): other_value for other_id, other_value in alternatives}
            logprobs["top_logprobs"].append(likeliest)
            logprobs["text_offset"].append(offset)
            offset += len(text)
    return logprobs


def _tokens(piece: Piece) -> "zip[tuple[int, float, list[tuple[int, float]]]]":
    """Iterates over the tokens of a piece: id, log-probability, and the likeliest tokens in its place."""
    alternatives = piece.alternatives or ([],) * len(piece.ids)
    return zip(piece.ids, piece.log_probabilities, alternatives, strict=True)


def _token(tokenizer: ConversationTokenizer, token_id: int, value: float) -> dict[str, Any]:
    content = token_bytes(tokenizer, token_id)
    return {"token": _text(content), "logprob": value, "bytes": [*content]}


def _text(content: bytes) -> str:
    """Decodes a token's bytes; a part of a character is written as OpenAI's API does."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
