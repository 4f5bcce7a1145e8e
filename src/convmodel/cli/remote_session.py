"""A conversation with a model behind OpenAI's API.

Owns: the requests for responses, streams, and retries. Does not know the terminal; the connection is
`remote_server.py`'s.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2

from convmodel.arguments.values import without_none
from convmodel.cli.remote_server import TIMEOUT, RemoteServer
from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.errors import ConfigError, GenerationError
from convmodel.generation.output import Chunk
from convmodel.generation.session import Session
from convmodel.server.settings import SESSION_HEADER

_LONGEST_WAIT = TIMEOUT  # seconds before a retry
_ATTEMPTS = 5
PARAMETERS = (
    "temperature", "top_p", "max_completion_tokens", "seed", "presence_penalty", "frequency_penalty", "stop",
)  # fmt: skip
"""Parameters of OpenAI's API that can be options of a session."""


class RemoteSession(Session):
    """The turns so far, and a server that responds to them; a context manager, which closes the connection."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        system: str | None = None,
        on_wait: Callable[[float], None] = lambda _: None,
        sampling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Connects to a server, at an address with or without `/v1`; `model` is optional if it has only one.

        The scheme of the address may be left out. `on_wait` is called with the seconds until the next retry when the
        server is busy. The `options` are those in `PARAMETERS`; `sampling` are those for chats with models for which
        the server publishes none. Without it, what is not given is left to the server.
        """
        start = Conversation([system], ["system"], pinned=1) if system else None
        super().__init__(start, *DEFAULT_SPEAKERS)
        self._options = _parameters(options)
        self._sampling = sampling
        self._on_wait = on_wait
        headers = {SESSION_HEADER: uuid.uuid4().hex}  # a load balancer can route by it
        self._server = RemoteServer(url, api_key=api_key, headers=headers)
        self._url = self._server.url
        try:
            self.model = self._server.choose_model(model)
        except BaseException:
            self._server.client.close()
            raise

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given for the responses."""
        return dict(self._options)

    @property
    def settings(self) -> dict[str, Any]:
        """The values of all parameters; None for one that is left to the server."""
        return dict.fromkeys(PARAMETERS) | self._defaults | self._options

    @property
    def _defaults(self) -> dict[str, Any]:
        """The model's own settings for chats, or those in their place."""
        return {} if self._sampling is None else {**self._sampling, **self._server.chat_sampling(self.model)}

    def setting(self, name: str) -> Any:
        """Returns the value of one parameter, which may have its name in `generate`; None if it is left to the server.

        Raises:
            ConfigError: If a server takes no option of this name.
        """
        [parameter] = _parameters({name: None})
        return self.settings[parameter]

    def set_options(self, **options: Any) -> None:
        """Changes options for all further responses; None restores an option's default. The server checks values."""
        self._options = without_none(self._options | _parameters(options))

    def choose(self, model: str) -> None:
        """Continues with another model of the server; raises a `ModelLoadError` if it has none of that name."""
        self.model = self._server.choose_model(model)

    def __enter__(self) -> "RemoteSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.client.close()

    def _begin(self, context: Conversation) -> tuple[int, Iterator[Chunk]]:
        body = {
            "model": self.model,
            "messages": context.to_messages(),
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._defaults,
            **self._options,
        }
        return self.left_out, self._chunks(body)

    def _chunks(self, body: dict[str, Any]) -> Iterator[Chunk]:
        """Streams the response; retries while the server is busy."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._server.client.stream("POST", "/chat/completions", json=body) as response:
                    if response.status_code == 200:
                        yield from self._read_events(response)
                        return
                    response.read()
            except httpx2.TransportError as error:
                raise GenerationError(f"the connection to {self._url} broke: {error}") from error
            if response.status_code != 429 or attempt == _ATTEMPTS:
                raise self._server.error(response)
            seconds = _retry_after(response)
            self._on_wait(seconds)
            time.sleep(seconds)

    def _read_events(self, response: httpx2.Response) -> Iterator[Chunk]:
        ended = False
        for line in response.iter_lines():
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:") or data == "[DONE]":
                ended |= data == "[DONE]"
                continue
            try:
                content = json.loads(data)
                if content.get("error"):
                    raise GenerationError(f"{self._url} failed: {content['error'].get('message')}")
                usage = (content.get("usage") or {}).get("convmodel") or {}  # other servers do not report it
                self.left_out = usage.get("left_out", self.left_out)
                for choice in content.get("choices", [])[:1]:
                    text, reason = (choice.get("delta") or {}).get("content") or "", choice.get("finish_reason")
                    ended |= reason is not None
                    yield Chunk(text, reason)
            except (ValueError, AttributeError, TypeError) as error:
                raise GenerationError(f"{self._url} does not provide OpenAI's API: {data[:80]}") from error
        if not ended:
            raise GenerationError(f"{self._url} broke off the stream: the text so far is kept; /retry tries again")


def _parameters(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters for some options, which may have the names of `generate`'s."""
    parameters = {"max_completion_tokens" if name == "max_new_tokens" else name: options[name] for name in options}
    if unknown := sorted(parameters.keys() - set(PARAMETERS)):
        raise ConfigError(f"a server takes no option {', '.join(unknown)}; there are {', '.join(PARAMETERS)}")
    return parameters


def _retry_after(response: httpx2.Response) -> float:
    try:
        return min(_LONGEST_WAIT, max(0.1, float(response.headers.get("retry-after", 1))))
    except ValueError:
        return 1.0
