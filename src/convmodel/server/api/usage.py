"""What the API counts and measures, in OpenAI's form.

Owns: `usage`, and log-probabilities of tokens.
"""

from collections.abc import Sequence
from typing import Any

from convmodel.layout.token_view import token_bytes
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.server.serving.job import Job, Piece


def usage(jobs: Sequence[Job]) -> dict[str, Any]:
    """Counts tokens; what OpenAI's API does not have is under `convmodel`."""
    prompt = sum(len(job.request.ids) for job in jobs)
    completion = sum(job.completion_tokens for job in jobs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(job.request.cached_tokens for job in jobs)},
        "convmodel": _measured(jobs[0]),
    }


def _measured(job: Job) -> dict[str, Any]:
    begun, first, speed = job.begun_at, job.first_at, job.tokens_per_second
    return {
        "left_out": job.left_out,
        "cut": job.cut,
        "queue_seconds": None if begun is None else round(begun - job.arrived, 4),
        "first_token_seconds": None if first is None else round(first - job.arrived, 4),
        "tokens_per_second": None if speed is None else round(speed, 2),
    }


def chat_logprobs(tokenizer: ConversationTokenizer, piece: Piece) -> dict[str, Any]:
    """Tells what the model gave the tokens of a piece, as chat completions do: natural logarithms."""
    others = piece.alternatives or ([],) * len(piece.ids)
    return {
        "content": [
            _token(tokenizer, index, value)
            | {"top_logprobs": [_token(tokenizer, other, its) for other, its in likeliest]}
            for index, value, likeliest in zip(piece.ids, piece.log_probabilities, others, strict=True)
        ],
        "refusal": None,
    }


def completion_logprobs(tokenizer: ConversationTokenizer, pieces: Sequence[Piece], offset: int) -> dict[str, Any]:
    """Tells the same as completions do: lists of one length; `offset` is where the first token's text begins."""
    found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for piece in pieces:
        others = piece.alternatives or ([],) * len(piece.ids)
        for index, value, likeliest in zip(piece.ids, piece.log_probabilities, others, strict=True):
            text = _text(token_bytes(tokenizer, index))
            found["tokens"].append(text)
            found["token_logprobs"].append(value)
            found["top_logprobs"].append({_text(token_bytes(tokenizer, other)): its for other, its in likeliest})
            found["text_offset"].append(offset)
            offset += len(text)
    return found


def _token(tokenizer: ConversationTokenizer, index: int, value: float) -> dict[str, Any]:
    found = token_bytes(tokenizer, index)
    return {"token": _text(found), "logprob": value, "bytes": [*found]}


def _text(found: bytes) -> str:
    r"""Writes bytes as text; those of a part of a character as OpenAI's API does, `bytes:\xf0\x9f`."""
    try:
        return found.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)
