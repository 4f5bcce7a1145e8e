"""A server with OpenAI's API: its address, its models, and what its errors mean.

Owns: the connection. Does not know what is requested: a chat (`remote_session.py`) or answers to record
(`remote_answers.py`).
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from convmodel.errors import ConfigError, ConvModelError, GenerationError, ModelLoadError

TIMEOUT = 60.0  # seconds to wait for the server's next bytes
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
        api_key = (api_key or "").strip()
        if not api_key.isascii() or not api_key.isprintable():
            raise ConfigError(
                "the API key is not valid: it has other characters than ASCII letters, digits and symbols"
            )
        authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self.client = httpx2.Client(
                base_url=self.url if _VERSION.search(urlsplit(self.url).path) else f"{self.url}/v1",
                headers={**(headers or {}), **authorization},
                timeout=timeout,
                limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            )
        except (httpx2.InvalidURL, ValueError) as error:
            raise ConfigError(f"{url!r} is not an address ({error}): write one such as 127.0.0.1:8000") from error

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
            names = [str(entry["id"]) for entry in response.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(f"{self.url} does not provide OpenAI's API: it lists no models") from error
        if name is not None and name not in names:
            raise ModelLoadError(f"{self.url} has no model {name}: it has {', '.join(names) or 'none'}")
        if name is None and len(names) != 1:
            raise ConfigError(f"{self.url} has {len(names)} models: name one with --model ({', '.join(names)})")
        return name or names[0]

    def require_access(self) -> None:
        """Raises an error if the server does not answer, or the key is wrong; it need not list its models."""
        response = self._get_models()
        if response.status_code in (401, 403):
            raise self.error(response)

    def _get_models(self) -> httpx2.Response:
        try:
            return self.client.get("/models")
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise ModelLoadError(f"{self.url} does not answer ({error}): is the server running?") from error

    def error(self, response: httpx2.Response) -> ConvModelError:
        """Returns the error for a response, with the server's message."""
        message = message_of(response)
        if response.status_code in (401, 403):
            return ConfigError(f"{self.url} refuses: {message}; give --api-key KEY")
        if response.status_code in (404, 503):
            return ModelLoadError(f"{self.url}: {message}")
        return GenerationError(f"{self.url} refuses: {message}")


def message_of(response: httpx2.Response) -> str:
    """Returns the message of an error's body, else the status."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def complete_url(url: str) -> str:
    """Returns an address with a scheme and without `/v1`; a name in the public network is never asked in plain text.

    Example:
        >>> complete_url("127.0.0.1:8765"), complete_url("localhost:8000/v1/"), complete_url("api.example.com/v1")
        ('http://127.0.0.1:8765', 'http://localhost:8000', 'https://api.example.com')
    """
    url = url.strip().rstrip("/").removesuffix("/v1")
    if "://" in url:
        return url
    try:
        host = urlsplit(f"//{url}").hostname or ""
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        near = address.is_loopback or address.is_private
    except ValueError:  # a name, or not an address at all
        near = False
    return f"{'http' if near else 'https'}://{url}"


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
