"""A server with OpenAI's API: its address, its models, and what its errors mean.

Owns: the connection. Does not know what is requested: a chat (`remote_session.py`) or answers to record
(`remote_answers.py`).
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from convmodel.errors import ConfigError, ConvModelError, GenerationError, ModelLoadError

TIMEOUT = 60.0  # seconds to wait for the server's next bytes
OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable of OpenAI's own clients, whose key is sent to OpenAI only."""

_OPENAI = re.compile(r"([a-z0-9-]+\.)*openai\.com\.?", re.IGNORECASE)
_LONGEST_MESSAGE = 300  # characters of a server's message that are shown and kept
_VERSION = re.compile(r"/v\d+\w*(/|$)")  # a part of an address's path after which nothing is added


class RemoteServer:
    """The connection to a server; a context manager, which closes it.

    Attributes:
        url: The address, for messages.
        client: Its base is the address with the version: request `/chat/completions`.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        connections: int = 20,
    ) -> None:
        """Prepares the connection, at an address with or without a scheme and `/v1`."""
        self.url = complete_url(url)
        self._sampling: dict[str, dict[str, Any]] = {}
        _require_address(url, self.url)
        self._api_key = api_key = (api_key or "").strip()
        if not api_key.isascii() or not api_key.isprintable():
            raise ConfigError(
                "the API key is not valid: it has other characters than ASCII letters, digits and symbols"
            )
        authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.client = httpx2.Client(
            base_url=self.url if _VERSION.search(urlsplit(self.url).path) else f"{self.url}/v1",
            headers={**(headers or {}), **authorization},
            timeout=timeout,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def __enter__(self) -> "RemoteServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def choose_model(self, name: str | None) -> str:
        """Returns the model of this name, or the only one; raises a `ModelLoadError` if there is none."""
        response = self._get_models()
        if response.status_code != 200:
            raise self.error(response)
        try:
            entries = {str(entry["id"]): entry for entry in response.json()["data"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(f"{self.url} does not provide OpenAI's API: it lists no models") from error
        if name is not None and name not in entries:
            raise ModelLoadError(f"{self.url} has no model {name}: it has {', '.join(entries) or 'none'}")
        if name is None and len(entries) != 1:
            raise ConfigError(f"{self.url} has {len(entries)} models: name one with --model ({', '.join(entries)})")
        self._sampling = {each: _sampling_of(entry) for each, entry in entries.items()}
        return name or next(iter(entries))

    def chat_sampling(self, model: str) -> dict[str, Any]:
        """Returns the temperature and top-p that the server publishes for chats with a model; empty if it does not."""
        return self._sampling.get(model, {})

    def require_access(self) -> None:
        """Raises an error if the server does not answer, or the key is wrong; it need not list its models."""
        response = self._get_models()
        if response.status_code in (401, 403) or response.has_redirect_location:
            raise self.error(response)

    def _get_models(self) -> httpx2.Response:
        try:
            return self.client.get("/models")
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            is_tls = "SSL" in str(error)
            fix = "write http:// before its address if it has no TLS" if is_tls else "is the server running?"
            raise ModelLoadError(f"{self.url} does not answer ({error}): {fix}") from error

    def error(self, response: httpx2.Response) -> ConvModelError:
        """Returns the error for a response, with the server's message."""
        message = self.message(response)
        if response.has_redirect_location:
            location = self.shown(response.headers["location"])
            return ConfigError(f"{self.url} redirects to {location}, which is not followed: give that server's --url")
        if response.status_code == 401:
            fix = "check --api-key KEY" if self._api_key else "give --api-key KEY"
            return ConfigError(f"{self.url} refuses: {message}; {fix}")
        if response.status_code == 403:
            return ConfigError(f"{self.url} refuses: {message}")
        if response.status_code in (404, 503):
            return ModelLoadError(f"{self.url}: {message}")
        return GenerationError(f"{self.url} refuses: {message}")

    def message(self, response: httpx2.Response) -> str:
        """Returns the message of a response, for one line on a terminal."""
        return self.shown(message_of(response))

    def shown(self, text: str) -> str:
        """Returns a text of the server for one line on a terminal, without the API key, which some servers repeat."""
        text = text.replace(self._api_key, "***") if self._api_key else text
        return one_line(text)


def _sampling_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings for chats in the entry of a model, which convmodel's server has."""
    own = entry.get("convmodel")
    defaults = own.get("defaults") if isinstance(own, Mapping) else None
    found = defaults if isinstance(defaults, Mapping) else {}
    return {name: found[name] for name in ("temperature", "top_p") if isinstance(found.get(name), int | float)}


def message_of(response: httpx2.Response) -> str:
    """Returns the message of an error's body, in the forms of several servers, else the status."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, Mapping):
        for value in (body.get("error"), body.get("message"), body.get("detail")):
            message = value.get("message") if isinstance(value, Mapping) else value
            if isinstance(message, str) and message:
                return message
    return f"status {response.status_code}"


def one_line(text: str) -> str:
    r"""Returns the beginning of a text for one line on a terminal, without control characters.

    Example:
        >>> one_line("no\n such \x1b[31mmodel")
        'no such [31mmodel'
    """
    text = "".join(character for character in " ".join(text.split()) if character.isprintable())
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} ..."


def complete_url(url: str) -> str:
    """Returns an address with a scheme and without `/v1`; a name in the public network is never asked in plain text.

    Example:
        >>> complete_url("127.0.0.1:8765"), complete_url("localhost:8000/v1/"), complete_url("api.example.com/v1")
        ('http://127.0.0.1:8765', 'http://localhost:8000', 'https://api.example.com')
    """
    url = url.strip().rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    if "://" in url:
        return url
    try:
        host = urlsplit(f"//{url}").hostname or ""
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        near = address.is_loopback or address.is_private
    except ValueError:  # a name, or not an address at all
        near = False
    return f"{'http' if near else 'https'}://{url}"


def _require_address(written: str, url: str) -> None:
    """Raises a `ConfigError` for what is not an address, or has a secret inside, which messages would show."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"{written!r} is not an address ({error}): write one such as 127.0.0.1:8000") from error
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError(
            "the address of the server has a user name, a password, a query or a fragment: leave it out, and give the "
            "key with --api-key"
        )
    if parsed.scheme not in ("http", "https") or not parsed.host or "%20" in parsed.host:
        raise ConfigError(f"{written!r} is not an address: write one such as 127.0.0.1:8000")


def openai_key(url: str) -> str | None:
    """Returns the key in `OPENAI_API_KEY` if an address is OpenAI's; another server never gets it.

    The host is read by the library that connects to it, so that no spelling of an address is read in two ways.
    """
    try:
        parsed = httpx2.URL(complete_url(url))
    except (httpx2.InvalidURL, ValueError):
        return None
    is_openai = parsed.scheme == "https" and _OPENAI.fullmatch(parsed.host) is not None
    return os.environ.get(OPENAI_KEY_VARIABLE) if is_openai else None


def read_key(file: Path) -> str:
    """Returns the key in a file, its first line.

    Raises:
        ConfigError: If there is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not lines:
        raise ConfigError(f"{file} contains no key: write one")
    return lines[0]
