"""A conversation with a model behind OpenAI's API.

Owns: requests to other people's servers, and what their answers mean to somebody at a terminal.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.errors import ConfigError, ConvModelError, GenerationError, ModelLoadError
from convmodel.generation.output import Chunk
from convmodel.generation.session import Session
from convmodel.server.settings import SESSION_HEADER

if TYPE_CHECKING:
    import httpx2

_PATIENCE = 60.0  # seconds to wait for a busy server at a time, and for it to say something
_ATTEMPTS = 5


class RemoteSession(Session):
    """Turns said so far, and a server that responds to them; a context manager, which closes the connection.

    Attributes:
        model: What the server calls its model.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        system: str | None = None,
        waits: Callable[[float], None] = lambda _: None,
        **options: Any,
    ) -> None:
        """Looks for the server and its model.

        Args:
            url: The server's address, with or without `/v1`.
            model: The model's name; may be left out where there is only one.
            api_key: A key, if the server wants one.
            system: A system message.
            waits: Told of seconds for which a busy server asks to wait.
            **options: Parameters of every request, such as `temperature`.

        Raises:
            ModelLoadError: If nobody answers there, or there is no such model.
            ConfigError: If there are several models and none is named, or the key is wrong.
        """
        import httpx2

        start = Conversation([system], ["system"], pinned=1) if system else None
        super().__init__(start, *DEFAULT_SPEAKERS)
        self._options = options
        self._waits = waits
        base = url.rstrip("/").removesuffix("/v1")
        headers = {SESSION_HEADER: uuid.uuid4().hex}  # several servers behind one address keep a conversation together
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._url = base
        self._client = httpx2.Client(base_url=base, headers=headers, timeout=_PATIENCE)
        try:
            self.model = self._choose(model)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RemoteSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _choose(self, name: str | None) -> str:
        import httpx2

        try:
            answer = self._client.get("/v1/models")
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise ModelLoadError(f"{self._url} does not answer ({error}): is the server started?") from error
        if answer.status_code != 200:
            raise self._refused(answer)
        try:
            known = [each["id"] for each in answer.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(f"{self._url} does not speak OpenAI's API: it lists no models") from error
        if name is not None and name not in known:
            raise ModelLoadError(f"{self._url} has no model {name}, but {', '.join(known) or 'none'}")
        if name is None and len(known) != 1:
            raise ConfigError(f"{self._url} has {len(known)} models: name one with --model ({', '.join(known)})")
        return name or str(known[0])

    def _begin(self, asked: Conversation) -> tuple[int, Iterator[Chunk]]:
        body = {
            "model": self.model,
            "messages": [
                {"role": who, "content": turn} for who, turn in zip(asked.turn_speakers, asked.turns, strict=True)
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._options,
        }
        return self.left_out, self._chunks(body)

    def _chunks(self, body: dict[str, Any]) -> Iterator[Chunk]:
        """Yields the response; a server that is busy is asked again."""
        import httpx2

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    if answer.status_code == 200:
                        yield from self._read(answer)
                        return
                    answer.read()
            except httpx2.TransportError as error:
                raise GenerationError(f"the connection to {self._url} broke: {error}") from error
            if answer.status_code != 429 or attempt == _ATTEMPTS:
                raise self._refused(answer)
            seconds = _seconds(answer)
            self._waits(seconds)
            time.sleep(seconds)

    def _read(self, answer: "httpx2.Response") -> Iterator[Chunk]:
        ended = False
        for line in answer.iter_lines():
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:") or data == "[DONE]":
                ended |= data == "[DONE]"
                continue
            try:
                content = json.loads(data)
                if content.get("error"):
                    raise GenerationError(f"{self._url} could not go on: {content['error'].get('message')}")
                self._take_usage(content.get("usage") or {})
                for choice in content.get("choices", [])[:1]:
                    text, reason = (choice.get("delta") or {}).get("content") or "", choice.get("finish_reason")
                    ended |= reason is not None
                    yield Chunk(text, reason)
            except (ValueError, AttributeError, TypeError) as error:
                raise GenerationError(f"{self._url} does not speak OpenAI's API: {data[:80]}") from error
        if not ended:
            raise GenerationError(f"{self._url} broke off in the middle; what came is kept, /retry asks again")

    def _take_usage(self, usage: dict[str, Any]) -> None:
        """Notes how many turns a convmodel server left out; others do not tell."""
        self.left_out = (usage.get("convmodel") or {}).get("left_out", self.left_out)

    def _refused(self, answer: "httpx2.Response") -> ConvModelError:
        try:
            said = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = f"status {answer.status_code}"
        if answer.status_code in (401, 403):
            return ConfigError(f"{self._url} refuses: {said}; give --api-key KEY")
        if answer.status_code in (404, 503):
            return ModelLoadError(f"{self._url}: {said}")
        return GenerationError(f"{self._url} refuses: {said}")


def _seconds(answer: "httpx2.Response") -> float:
    try:
        return min(_PATIENCE, max(0.1, float(answer.headers.get("retry-after", 1))))
    except ValueError:
        return 1.0
