"""What a server may be told, and what it never exceeds.

Owns: every limit and every waiting time of the server.
"""

from dataclasses import dataclass
from pathlib import Path

MAX_BODY = 2**20
"""Bytes of a request's body."""

MAX_CHOICES = 8
"""Responses to one request."""

MAX_STOPS = 16
"""Texts that may end a response."""

MAX_STOP_LENGTH = 256
"""Characters of each of them."""

MAX_MESSAGES = 4096
"""Messages of one request, and prompts of one."""

MAX_BIASES = 1024
"""Tokens whose logits one request may change."""

MAX_ALTERNATIVES = 20
"""Likeliest tokens that one request may ask for at each token, as OpenAI's API has it."""

MAX_NEW_TOKENS = 2**20
"""The largest number of new tokens that makes sense; the model's positions are the limit that counts."""

KEY_VARIABLE = "CONVMODEL_API_KEY"
"""The environment variable that may name a key, of servers and of those who ask them."""

SESSION_HEADER = "X-Session-Id"
"""Where several servers are behind one address, requests with the same value go to the one that remembers them."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine in a Host header."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What one server was told.

    Attributes:
        api_keys: Keys, one of which a request must carry; with none, no request needs one.
        hosts: What a Host header may name, without the port; `*` is anything.
        max_queue: How many requests may wait for each model; more are refused with 429.
        wait_seconds: How long a request may wait before its prompt is read.
        run_seconds: How long a response may take after that.
        drain_seconds: How long responses in work may go on after the server was told to stop.
        head_seconds: How long a connection may stay open without a whole head of a request.
        body_seconds: How long a client may take to send its body.
        stall_seconds: How long a client may leave what it was sent unread.
        ping_seconds: After how much silence a stream says that it is alive.
        system_messages: Whether models that were trained without system messages take them all the same.
        cache_bytes: Memory for what each model remembers of conversations; None for the engine's own limit.
        feedback: The file that feedback is added to; None to take none.
        votes: The file that votes are added to; None to count them only as long as the server runs.
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
