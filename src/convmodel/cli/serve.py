"""`convmodel serve`: an OpenAI-compatible server with a chat page.

Owns: which keys, host names and model names the flags give. The server itself is `server.run`'s.
"""

import gc
import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import DEFAULT_MODEL, load_model, print_message
from convmodel.errors import ConfigError, MissingExtraError
from convmodel.files.hub import CHITCHAT, checked_name
from convmodel.files.json_lines import require_appendable
from convmodel.server.settings import KEY_VARIABLE
from convmodel.training.improvement import NO_REPLAY, SELF_REPLAY
from convmodel.training.packages import require_accelerate

if TYPE_CHECKING:
    from convmodel.model import ConversationModel
    from convmodel.server.fine_tuning.service import FineTuning
    from convmodel.server.serving.improvement import Improver
    from convmodel.server.settings import TrainingLimits


def command(
    models: Annotated[
        list[str] | None,
        Argument(
            help=f"Models: folders, model ids on the Hub, or {CHITCHAT}; NAME=MODEL sets the name that clients use. "
            f"[default: the folder {DEFAULT_MODEL} if it exists, else {CHITCHAT}]",
            metavar="MODEL",
        ),
    ] = None,
    *,
    host: Annotated[
        str, Option(help="Address to listen on; one that other machines can reach requires an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        Option(help=f"API key that requests must carry; may be repeated. {KEY_VARIABLE} adds one more."),
    ] = None,
    api_key_file: Annotated[Path | None, Option(help="File with API keys, one per line.")] = None,
    insecure_no_auth: Annotated[
        bool, Option("--insecure-no-auth", help="Accept requests from other machines without a key.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        Option(help="Host name under which browsers may reach this server, or * for any; may be repeated."),
    ] = None,
    max_queue: Annotated[
        int, Option(min=1, max=10_000, help="Waiting requests per model; further ones get status 429.")
    ] = 64,
    wait_limit: Annotated[float, Option(min=1, max=3600, help="Seconds that a request may wait in the queue.")] = 60,
    run_limit: Annotated[float, Option(min=1, max=86400, help="Seconds that generating a response may take.")] = 600,
    drain_limit: Annotated[
        float, Option(min=0, max=3600, help="Seconds that running responses may continue after SIGTERM.")
    ] = 30,
    cache_memory: Annotated[
        int | None,
        Option(
            min=1,
            help="MiB per model for the KV cache of past conversations; by default a quarter of its weights' size.",
        ),
    ] = None,
    system_messages: flags.SystemMessages = False,
    feedback: Annotated[
        Path | None, Option(help="JSONL file for ratings and corrections of responses, which `convmodel fit` reads.")
    ] = None,
    votes: Annotated[
        Path | None, Option(help="JSONL file for votes between two models' responses on the chat page.")
    ] = None,
    allow_training: Annotated[
        Path | None,
        Option(
            help="Allow clients to improve the models with --feedback and --votes (by default votes.jsonl in this "
            "folder), and write them into this folder.",
            metavar="DIR",
        ),
    ] = None,
    train: Annotated[
        Path | None,
        Option(
            help="Allow clients to fine-tune the models, on the chat page (Train) and by OpenAI's API of files and "
            "fine-tuning jobs; files, jobs and the new models are kept in this folder. See "
            "`docs/fine-tuning-service.md`.",
            metavar="DIR",
        ),
    ] = None,
    train_storage: Annotated[
        int | None, Option(min=1, help="With --train: MiB of all uploaded files together. [default: 4096]")
    ] = None,
    train_files: Annotated[
        int | None, Option(min=1, help="With --train: how many files are kept. [default: 1000]")
    ] = None,
    train_jobs: Annotated[
        int | None, Option(min=1, help="With --train: jobs that wait, run or keep a model. [default: 100]")
    ] = None,
    train_at_once: Annotated[
        int | None, Option(min=1, help="With --train: jobs that run at the same time. [default: 1]")
    ] = None,
    valid: Annotated[
        str | None,
        Option(
            help="With --allow-training: ordinary conversations in which a model must not become worse. [default: the "
            "sample's, in English]"
        ),
    ] = None,
    replay: Annotated[
        str | None,
        Option(
            help="With --allow-training: ordinary conversations that are trained on beside the judgements: a file, "
            f"self, or none, as for `improve`. [default: self for {CHITCHAT}, none for other models]"
        ),
    ] = None,
    quantize: flags.Quantize = None,
    layout: flags.Layout = "auto",
) -> None:
    """Serve models: a chat page at /, and OpenAI's API under /v1.

    `convmodel serve model`, then open http://127.0.0.1:8000

    `convmodel serve --host 0.0.0.0 --api-key KEY small=models/small large=models/large`

    `curl` and any OpenAI client work with it. Logs have one line per request, as JSON unless on a terminal, and no text
    of conversations. After SIGTERM the server finishes the running responses, then exits. See `docs/serving.md`.
    """
    try:
        from convmodel.server.run import format_logs, listen, run
        from convmodel.server.serving.model_registry import ModelRegistry
        from convmodel.server.settings import ServerSettings
    except ImportError as error:
        raise MissingExtraError(f"serving needs {error.name}", "serve") from error
    from convmodel.server.middleware import host_names

    keys = _collect_keys(api_key or [], api_key_file)
    hosts = _check_hosts(host, allowed_host or [], has_keys=bool(keys), insecure=insecure_no_auth)
    for flag, folder in (("--allow-training", allow_training), ("--train", train)):
        if folder is not None:
            _check_training(flag, host, hosts, layout, has_keys=bool(keys))
    if allow_training is not None:
        if feedback is None:
            raise ConfigError("--allow-training trains on the file of --feedback: give --feedback FILE")
        votes = votes or allow_training / "votes.jsonl"
    quotas = {"--train-storage": train_storage, "--train-files": train_files, "--train-jobs": train_jobs}
    limits = _limits(train, quotas | {"--train-at-once": train_at_once})
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
    sources = _name_models(models or [flags.default_model()])
    improver = None
    load_trained = partial(load_model, quantize=quantize, layout=layout)
    if allow_training is not None:
        files = [path for path in (feedback, votes) if path is not None]
        improver = _improver(allow_training, sources, files, load_trained, {"--valid": valid, "--replay": replay})
    elif flag := "--valid" if valid is not None else "--replay" if replay is not None else "":
        raise ConfigError(f"{flag} is for training: give --allow-training DIR with it")
    for path in filter(None, (feedback, votes)):
        require_appendable(path)
    fine_tuning = None if train is None else _fine_tuning(train, sources, load_trained, limits, improver)
    listener = listen(host, port)
    address = f"[{host}]" if ":" in host else host
    url = f"http://{address}:{listener.getsockname()[1]}"

    def load() -> "Mapping[str, ConversationModel]":
        current = sources if improver is None else {name: improver.source(name) for name in sources}
        loaded = {name: load_model(source, quantize=quantize, layout=layout) for name, source in current.items()}
        gc.freeze()  # what stays need not be searched for garbage while requests are answered
        also = "" if train is None else " (its view Train makes a model from a chat export)"
        print_message(f"Serving {', '.join(sources)}: chat at {url}{also}, API at {url}/v1. Ctrl+C stops the server.")
        return loaded

    format_logs()
    shelf = None if fine_tuning is None else fine_tuning.shelf
    run(ModelRegistry(load, settings, improver, shelf), listener, fine_tuning)


def _collect_keys(flags: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Collects the API keys of the flags, the environment and the file; an HTTP header must be able to carry them."""
    keys = [*flags, *filter(None, [os.environ.get(KEY_VARIABLE)])]
    if file is not None:
        try:
            keys += [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from error
        if not keys:
            raise ConfigError(f"{file} contains no key: write one per line")
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise ConfigError("an API key is not valid: use ASCII letters, digits and symbols, without spaces")
    return tuple(dict.fromkeys(keys))


def _check_hosts(host: str, allowed: Sequence[str], *, has_keys: bool, insecure: bool) -> list[str]:
    """Checks that the server is not open to other machines by accident, and returns further valid Host headers."""
    if _is_loopback(host):
        return list(allowed)
    if not (has_keys or insecure):
        fix = "give --api-key KEY, or --insecure-no-auth to allow everybody"
        raise ConfigError(f"{host} can be reached by other machines: {fix}")
    # A page of another site can send requests to this server (DNS rebinding), but it does not know a key.
    return list(allowed) or (["*"] if has_keys else [])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_training(flag: str, host: str, hosts: Sequence[str], layout: str, *, has_keys: bool) -> None:
    """Checks that jobs can train, as models are served, and that nobody elsewhere can start one without a key."""
    from convmodel.hf_model.lora import require_peft  # imports torch, which the server has imported by now

    require_accelerate()
    require_peft()  # `improve` and DPO jobs train adapters
    if layout != "auto":
        fix = "leave --layout out, or serve a model that convmodel saved with it"
        raise ConfigError(f"{flag} trains models as they are loaded without --layout: {fix}")
    if has_keys:
        return
    if hosts or not _is_loopback(host):
        where = host if not _is_loopback(host) else f"a page of {hosts[0]}" if hosts[0] != "*" else "a page of any site"
        raise ConfigError(f"{where} could start training without a key: give --api-key KEY with {flag}")


def _limits(train: Path | None, quotas: Mapping[str, int | None]) -> "TrainingLimits":
    """Returns the limits of fine-tuning that the flags set."""
    from convmodel.server.settings import TrainingLimits

    given = {flag: value for flag, value in quotas.items() if value is not None}
    if given and train is None:
        raise ConfigError(f"{next(iter(given))} is for fine-tuning: give --train DIR with it")
    fields = {flag.removeprefix("--train-").replace("-", "_"): value for flag, value in given.items()}
    if "storage" in fields:
        fields["total_bytes"] = fields.pop("storage") * 2**20
    return TrainingLimits(**fields)


def _fine_tuning(
    folder: Path,
    sources: Mapping[str, str],
    load: Callable[[str], "ConversationModel"],
    limits: "TrainingLimits",
    improver: "Improver | None",
) -> "FineTuning":
    """Returns what fine-tunes the models; of an improved one, the version that is served."""
    from convmodel.server.fine_tuning.service import FineTuning

    return FineTuning(folder, sources, load, limits, source=None if improver is None else improver.source)


def _improver(
    folder: Path,
    sources: Mapping[str, str],
    files: Sequence[Path],
    load: Callable[[str], "ConversationModel"],
    data: Mapping[str, str | None],
) -> "Improver":
    """Returns what improves the models; `data` are files for `convmodel improve`, by its flags."""
    from convmodel.server.serving.improvement import Improver
    from convmodel.server.serving.improvement_job import COMMAND

    command = [*COMMAND]
    for flag, name in data.items():
        if flag == "--replay" and name in (NO_REPLAY, SELF_REPLAY):
            command += [flag, name]
        elif name is not None:
            if not Path(name).exists():
                raise ConfigError(f"there is no file {name}, which {flag} names")
            command += [flag, str(Path(name).resolve())]
    return Improver(folder, sources, load, files, command)


def _name_models(models: Sequence[str]) -> dict[str, str]:
    """Returns the source of each model by the name that clients use."""
    sources: dict[str, str] = {}
    for model in models:
        name, equals, source = model.partition("=")
        if not equals:
            source = model
            name = (
                model.rpartition(":")[2] if model.startswith("builtin:") else Path(checked_name(model)).resolve().name
            )
        if name in sources:
            raise ConfigError(f"two models are called {name}: write NAME=MODEL for one of them")
        sources[name] = source
    return sources
