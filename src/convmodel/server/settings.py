"""The server's settings and limits.

Owns: every limit and every timeout of the server.
"""

from dataclasses import dataclass
from pathlib import Path

MAX_BODY = 2**20  # bytes of a request body
MAX_CHOICES = 8  # responses per request
MAX_STOPS = 16  # stop strings per request
MAX_STOP_LENGTH = 256  # characters of a stop string
MAX_MESSAGES = 4096  # messages per request, and content parts per message
MAX_BIASES = 1024  # entries of `logit_bias`
MAX_ALTERNATIVES = 20  # `top_logprobs`, as in OpenAI's API
MAX_NEW_TOKENS = 2**20  # largest `max_completion_tokens`; in practice the model's positions are the limit

KEY_VARIABLE = "CONVMODEL_API_KEY"
"""The environment variable with an API key, for the server and for its clients."""

SESSION_HEADER = "X-Session-Id"
"""Behind a load balancer, requests with the same value go to the server that has the conversation cached."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine in a Host header."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of one server.

    Attributes:
        api_keys: A request must carry one of these keys; if empty, no key is needed.
        hosts: Allowed names in the Host header, without the port; `*` allows any.
        max_queue: How many requests may wait per model; more are refused with 429.
        wait_seconds: How long a request may wait before its prompt is read.
        run_seconds: How long generating a response may take after that.
        drain_seconds: How long running requests may continue after the server was asked to stop.
        head_seconds: How long a connection may stay open without a complete request head.
        body_seconds: How long a client may take to send its body.
        stall_seconds: How long a client may leave a stream unread.
        ping_seconds: After how much silence a stream sends a comment, to keep the connection open.
        system_messages: Whether models that were trained without system messages accept them.
        cache_bytes: Memory for each model's cached conversations; None for the engine's default.
        feedback: The file to append feedback to; None to refuse feedback.
        votes: The file to append votes to; None to keep votes in memory only.
    """

    api_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = LOOPBACK
    max_queue: int = 64
    wait_seconds: float = 60.0
    run_seconds: float = 600.0
    drain_seconds: float = 30.0
    head_seconds: float = 30.0
    body_seconds: float = 20.0
    stall_seconds: float = 60.0
    ping_seconds: float = 15.0
    system_messages: bool = False
    cache_bytes: int | None = None
    feedback: Path | None = None
    votes: Path | None = None
