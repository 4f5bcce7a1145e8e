"""The server's settings and limits.

Owns: every limit and every timeout of the server.
"""

from dataclasses import dataclass
from pathlib import Path

MAX_BODY = 2**20  # bytes of a request body
MAX_MARKS = 2**15  # commas and brackets of a request body outside of texts, which bound the number of its values
MAX_FIELDS = 64  # fields of an object
MAX_CHOICES = 8  # responses per request
MAX_CANDIDATES = 32  # candidates for one response
MAX_STOPS = 16  # stop strings per request
MAX_STOP_LENGTH = 256  # characters of a stop string
MAX_MESSAGES = 4096  # messages per request, and content parts per message
MAX_BIASES = 1024  # entries of `logit_bias`
MAX_ALTERNATIVES = 20  # `top_logprobs`, as in OpenAI's API
MAX_STORED = 256 * 2**20  # bytes of the file of feedback, and of that of votes; one record may exceed it
MAX_PAIRS = 10_000  # pairs of models whose votes are counted
MIN_VOTES = 5  # votes between the old and the new model before the new one can be used
MAX_SOURCES = 100  # files of a preparation
MAX_NEW_TOKENS = 2**20  # largest `max_completion_tokens`; in practice the model's positions are the limit

KEY_VARIABLE = "CONVMODEL_API_KEY"  # the environment variable with an API key, for the server and its clients
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # names of this machine in a Host header

SESSION_HEADER = "X-Session-Id"
"""Requests with the same value share cached conversations on a server without keys. Behind a load balancer, they go to
the server that has the conversation cached."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of one server."""

    api_keys: tuple[str, ...] = ()  # a request must carry one of them; if empty, no key is needed
    hosts: tuple[str, ...] = LOOPBACK  # allowed names in the Host header, without the port; `*` allows any
    max_queue: int = 64  # how many requests may wait per model; more are refused with 429
    wait_seconds: float = 60.0  # how long a request may wait before its prompt is read
    run_seconds: float = 600.0  # how long generating a response may take after that
    drain_seconds: float = 30.0  # how long running requests may continue after SIGTERM
    head_seconds: float = 30.0  # how long a connection may stay open without a complete request head
    body_seconds: float = 20.0  # how long a client may take to send its body
    linger_seconds: float = 2.0  # how long a client may pause while the body of a refused request is dropped
    stall_seconds: float = 60.0  # how long a client may leave a response unread, or pause within an upload
    upload_seconds: float = 3600.0  # how long an upload may take
    ping_seconds: float = 15.0  # after how much silence a stream sends a comment, to keep the connection open
    system_messages: bool = False  # whether models that were trained without system messages accept them
    cache_bytes: int | None = None  # memory for each model's cached conversations; None for the engine's default
    feedback: Path | None = None  # the file to append feedback to; None to refuse feedback
    votes: Path | None = None  # the file to append votes to; None to keep votes in memory only


@dataclass(frozen=True, slots=True)
class TrainingLimits:
    """How much the clients of `--train` may store and start."""

    file_bytes: int = 512 * 2**20  # of one file, as in OpenAI's API
    total_bytes: int = 4 * 2**30  # of all uploaded files together
    files: int = 1000
    uploads: int = 4  # at the same time
    jobs: int = 100  # that wait, run or are paused, or whose models are kept
    ended: int = 1000  # other jobs, which are shown; of more, the oldest are removed
    at_once: int = 1  # jobs that run at the same time
    preparations: int = 100  # of more, the oldest that has ended is removed; if all are under way, no more are taken
    preparations_at_once: int = 2  # that run at the same time
    preparation_seconds: float = 3600.0  # how long each process of a preparation may take
