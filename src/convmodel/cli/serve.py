"""`convmodel serve`: an OpenAI-compatible server with a page to talk on."""

import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convmodel.cli.console import console, load_model
from convmodel.cli.model_options import QuantizeOption, chosen_model
from convmodel.errors import ConfigError, MissingExtraError
from convmodel.files.json_lines import require_appendable
from convmodel.server.settings import KEY_VARIABLE

if TYPE_CHECKING:
    from convmodel.model import ConversationModel


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models: folders, hub ids or builtin:chitchat; NAME=MODEL to choose the name that clients use. By "
            "default the folder model if there is one, else builtin:chitchat.",
            show_default=False,
            metavar="MODEL...",
        ),
    ] = None,
    *,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's own need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"A key that requests must carry; may be repeated. So may {KEY_VARIABLE} name one."),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="A file of such keys, one a line.")] = None,
    insecure_no_auth: Annotated[
        bool, typer.Option("--insecure-no-auth", help="Listen to other machines without a key.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which browsers may reach this server; may be repeated; * for any."),
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, max=10_000, help="Waiting requests a model; others get 429.")] = 64,
    wait_limit: Annotated[float, typer.Option(min=1, max=3600, help="Seconds that a request may wait.")] = 60,
    run_limit: Annotated[float, typer.Option(min=1, max=86400, help="Seconds that a response may take.")] = 600,
    drain_limit: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds that responses may go on after SIGTERM.")
    ] = 30,
    cache_memory: Annotated[
        int | None,
        typer.Option(min=1, help="MiB for what each model remembers of conversations; a quarter of its weights."),
    ] = None,
    system_messages: Annotated[
        bool, typer.Option("--system-messages", help="Take system messages though the model was trained without them.")
    ] = False,
    feedback: Annotated[
        Path | None, typer.Option(help="Save thumbs and corrections in this file, which `convmodel fit` reads.")
    ] = None,
    votes: Annotated[Path | None, typer.Option(help="Save votes of the page in this file.")] = None,
    quantize: QuantizeOption = None,
) -> None:
    """Serves models: a page to talk on at /, and OpenAI's API under /v1.

    `curl` and any OpenAI client can ask it; logs are JSON, without what people say. SIGTERM ends it when all
    responses in work have ended. See `docs/serving.md`.
    """
    try:
        from convmodel.server.run import listen, run
        from convmodel.server.serving.model_registry import ModelRegistry
        from convmodel.server.settings import ServerSettings
    except ImportError as error:
        raise MissingExtraError(f"serving needs {error.name}: pip install 'convmodel[serve]'") from error
    from convmodel.server.logs import use_json_logs
    from convmodel.server.middleware import host_names

    keys = _keys(api_key or [], api_key_file)
    hosts = _hosts(host, allowed_host or [], has_keys=bool(keys), insecure=insecure_no_auth)
    settings = ServerSettings(
        api_keys=keys,
        hosts=host_names(host, hosts),
        max_queue=max_queue,
        wait_seconds=wait_limit,
        run_seconds=run_limit,
        drain_seconds=drain_limit,
        system_messages=system_messages,
        cache_bytes=None if cache_memory is None else cache_memory * 2**20,
        feedback=feedback,
        votes=votes,
    )
    for place in (feedback, votes):
        if place is not None:
            require_appendable(place)
    named = _named(models or [chosen_model(None)])
    opened = listen(host, port)

    def load() -> "Mapping[str, ConversationModel]":
        loaded = {name: load_model(place, quantize=quantize) for name, place in named.items()}
        address = f"[{host}]" if ":" in host else host
        console.print(
            f"Serving {', '.join(named)}; Ctrl+C ends it. Open http://{address}:{opened.getsockname()[1]} to talk; the "
            "API is there under /v1.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return loaded

    use_json_logs()
    run(ModelRegistry(load, settings), opened)


def _keys(given: Sequence[str], place: Path | None) -> tuple[str, ...]:
    """Collects keys of all three places.

    Raises:
        ConfigError: If the file cannot be read, or a key is none that a header can carry.
    """
    keys = [*given, *filter(None, [os.environ.get(KEY_VARIABLE)])]
    if place is not None:
        try:
            keys += [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{place} cannot be read: {error}") from error
        if not keys:
            raise ConfigError(f"{place} holds no key: write one a line")
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise ConfigError("a key is made of letters, digits and signs without spaces: give another one")
    return tuple(dict.fromkeys(keys))


def _hosts(host: str, allowed: Sequence[str], *, has_keys: bool, insecure: bool) -> list[str]:
    """Checks that nobody listens to the world by accident, and returns the names that a Host header may have besides.

    Raises:
        ConfigError: If other machines could ask without a key.
    """
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if is_loopback:
        return list(allowed)
    if not (has_keys or insecure):
        raise ConfigError(
            f"{host} is reached by other machines: give --api-key KEY, or --insecure-no-auth if everybody may ask"
        )
    # A page of another site can be made to ask this server, but it knows no key.
    return list(allowed) or (["*"] if has_keys else [])


def _named(models: Sequence[str]) -> dict[str, str]:
    """Gives each model the name that clients use.

    Raises:
        ConfigError: If two have the same.
    """
    named: dict[str, str] = {}
    for given in models:
        name, found, place = given.partition("=")
        if not found:
            place = given
            name = given.rpartition(":")[2] if given.startswith("builtin:") else Path(given).resolve().name
        if name in named:
            raise ConfigError(f"two models are called {name}: write NAME=MODEL for one of them")
        named[name] = place
    return named
