"""From a model's name to its files: in a folder, inside the package, or on the Hub.

Owns: distinguishing a folder from a Hub id, the names of built-in models, the files of adapters, that no code of a
model is run, and one-sentence messages for Hugging Face's load errors. Knows nothing about tokenizers or layouts.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from convmodel.errors import ModelLoadError

ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
"""peft's files of adapters, and ours beside them, which identifies the weights that they were trained on."""

_ONE_FILE_OPTIONS = frozenset({"revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download"})
HUB_OPTIONS = _ONE_FILE_OPTIONS | {"trust_remote_code", "gguf_file"}
"""Arguments of Hugging Face's `from_pretrained` that select where files come from."""

_PATIENCE = 5.0  # seconds to wait for the Hub's first answer
_WEIGHT_FILES = (
    r"model\.safetensors", r"model-\d+-of-\d+\.safetensors", r"adapter_model\.safetensors",
    r"pytorch_model\.bin", r"pytorch_model-\d+-of-\d+\.bin",
)  # fmt: skip
"""The weights of a model in order of preference, which is that of transformers."""


def name_of(name_or_path: object) -> str:
    """Returns the name of a model, given as text or as a path.

    Raises:
        ModelLoadError: If it is neither.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        kind = type(name_or_path).__name__
        raise ModelLoadError(
            f"a model is loaded by its folder or its name on the Hub, not by a {kind}: give one of them"
        )
    return os.fspath(name_or_path)


def find_file(name: str, file: str, options: dict[str, Any]) -> Path | None:
    """Returns the path of one file of a model, downloading it if necessary; None if the model has no such file.

    The name is a folder or a Hub id; the options are some of `HUB_OPTIONS`.

    Raises:
        OSError: If the Hub cannot be reached or has no such model.
        ValueError: If `name` is not a valid Hub id.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if Path(name).is_dir():
        path = Path(name, options.get("subfolder") or "", file)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, file, **{key: options[key] for key in options.keys() & _ONE_FILE_OPTIONS}))
    except EntryNotFoundError:  # also raised without a network if the file was never downloaded
        return None


def reachable_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options to load a model with: `local_files_only` if the Hub does not answer.

    Loading would otherwise wait for the Hub file by file.

    Raises:
        ModelLoadError: If the Hub does not answer and the model was never downloaded.
    """
    from huggingface_hub import constants

    folder = Path(resolve_builtin(name))
    if folder.is_dir() or is_path(name) or options.get("local_files_only"):
        return options
    try:
        _require_answer(constants.ENDPOINT)
    except Exception as error:  # of several libraries, and there may be others behind a proxy
        if not is_downloaded(name, options):
            raise _offline_error(name) from error
        return options | {"local_files_only": True}
    return options


@functools.cache
def _require_answer(endpoint: str) -> None:
    """Raises an error if the Hub does not answer within seconds; an answer is remembered."""
    from huggingface_hub import get_session

    get_session().head(endpoint, timeout=_PATIENCE)


def is_downloaded(name: str, options: dict[str, Any] | None = None) -> bool:
    """Returns whether a model, or adapters, of this Hub id are in the cache."""
    from huggingface_hub import try_to_load_from_cache

    place = {key: (options or {}).get(key) for key in ("cache_dir", "revision")}
    files = ("config.json", ADAPTER_CONFIG)
    try:
        return any(isinstance(try_to_load_from_cache(name, file, **place), str) for file in files)
    except ValueError:  # not a valid Hub id
        return False


def weights_to_download(name: str, options: dict[str, Any]) -> dict[str, int]:
    """Returns the files of weights that loading a model would download, and their sizes in bytes; empty if unknown."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if Path(resolve_builtin(name)).is_dir() or is_path(name) or options.get("local_files_only"):
        return {}
    revision, cache = options.get("revision"), options.get("cache_dir")
    try:
        info = HfApi(token=options.get("token")).model_info(name, revision=revision, files_metadata=True)
    except Exception:  # what is wrong is reported when the model is loaded
        return {}
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    for pattern in _WEIGHT_FILES:
        if files := [file for file in sizes if re.fullmatch(pattern, file)]:
            cached = {file: try_to_load_from_cache(name, file, cache, revision) for file in files}
            return {file: sizes[file] for file in files if not isinstance(cached[file], str)}
    return {}


def download(name: str, files: Iterable[str], options: dict[str, Any], progress: Callable[[float], None]) -> None:
    """Downloads files of a model into the cache; `progress` gets the number of bytes that have arrived."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import tqdm

    arrived = 0.0

    class Forward(tqdm):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **(settings | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            nonlocal arrived
            arrived += n or 0
            progress(arrived)

    chosen = {key: options[key] for key in options.keys() & _ONE_FILE_OPTIONS}
    for file in files:
        try:
            hf_hub_download(name, file, tqdm_class=Forward, **chosen)
        except (OSError, ValueError) as error:
            raise load_error("weights", name, error) from error


def adapter_folder(name: str, options: dict[str, Any]) -> Path | None:
    """Returns the folder with the files of adapters, downloaded if necessary; None for a whole model."""
    name = resolve_builtin(name)
    try:
        config = find_file(name, ADAPTER_CONFIG, options)
        if config is None:
            return None
        for other in (ADAPTER_WEIGHTS, BASE_FILE):
            find_file(name, other, options)
        return config.parent
    except (OSError, ValueError) as error:
        raise load_error("adapters", name, error) from error


def adapter_base(folder: Path) -> str:
    """Returns the name of the model that adapters were trained on, from their configuration."""
    try:
        return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError) as error:
        raise load_error("adapters", str(folder), error) from error


def base_options(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options for the base of adapters: without the place of the adapters themselves."""
    return {name: value for name, value in options.items() if name not in ("revision", "subfolder")}


def upload_folder(folder: str, repo_id: str, *, private: bool | None, token: str | None) -> str:
    """Uploads a folder to a repository on the Hub, created if missing, and returns its URL."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Upload a conversation model")
    return str(url)


def code_option(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options with an explicit `trust_remote_code`, for each of transformers' Auto classes.

    Without one, transformers asks on the terminal whether to run the code, and takes the first line of standard input
    for the answer.
    """
    return options | {"trust_remote_code": bool(options.get("trust_remote_code"))}


def load_error(what: str, name: str, error: Exception) -> ModelLoadError:
    """Returns Hugging Face's load error as one sentence that names what could not be loaded."""
    if "trust_remote_code" in str(error):
        return remote_code_error(what, name)
    if "weights_only" in str(error):
        return ModelLoadError(
            f"the {what} of {name} are a pickle that is damaged or has code in it, which is not run: convert them to "
            "safetensors with the program that saved them"
        )
    reason = _reason(error)
    if Path(name).is_dir():
        return ModelLoadError(f"the folder {name} holds no usable {what}: {reason}")
    return ModelLoadError(
        f"there is no folder {name}, and the Hub returned no {what} of that name ({reason}): "
        + (near_name(name) or f"check the name; without a network, give a folder or {CHITCHAT}")
    )


def remote_code_error(what: str, name: str) -> ModelLoadError:
    """Returns the error for a model that needs code of its own."""
    return ModelLoadError(
        f"the {what} of {name} needs Python code that comes with it (auto_map), and convmodel runs no code of a model: "
        "choose one whose architecture and tokenizer transformers has, or, if you trust the code, load it in Python "
        "with trust_remote_code=True"
    )


def _offline_error(name: str) -> ModelLoadError:
    near = near_name(name)
    fix = f"{near} {CHITCHAT} needs no download" if near else f"connect, give a folder, or use {CHITCHAT}"
    return ModelLoadError(f"there is no folder {name}, and the Hub does not answer, to download it: {fix}")


def near_name(name: str) -> str:
    """Returns a question for a name close to that of a folder beside it or of the built-in model; else nothing."""
    place = Path(name).parent
    try:
        folders = [str(path) for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        folders = []
    inside = CHITCHAT.partition(":")[2]
    written = {folder.lower(): folder for folder in folders} | {inside: CHITCHAT, CHITCHAT: CHITCHAT}
    near = get_close_matches(str(Path(name)).lower(), written, n=1, cutoff=0.75)
    return f"did you mean {written[near[0]]}?" if near else ""


def _reason(error: Exception) -> str:
    """Returns the first line of an error; the Hub's own begin with an HTTP status instead."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "the repository is gated: request access on its page, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one: log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    return str(error).strip().split("\n", 1)[0]


def is_path(name: str) -> bool:
    """Returns whether a name is a path; a Hub id is `name` or `owner/name`."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name


def checked_name(name: str) -> str:
    """Returns a model's name unchanged.

    Raises:
        ModelLoadError: If neither a folder nor a model on the Hub can have this name.
    """
    try:
        name.encode()
        Path(name).is_dir()
    except UnicodeEncodeError:
        shown = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise ModelLoadError(f"the name of the folder {shown} is not UTF-8, which models need: rename it") from None
    except OSError as error:
        problem = f"the model {name[:60]}... cannot be read: {error.strerror}"
        raise ModelLoadError(f"{problem}; give a folder or a Hub id") from error
    return name


CHITCHAT = "builtin:chitchat"
"""English small talk, trained by `scripts/train_builtin.py`."""


def resolve_builtin(name: str) -> str:
    """Returns the folder of a `builtin:` model; returns any other name unchanged.

    Raises:
        ModelLoadError: If the package has no such model.

    Example:
        >>> resolve_builtin("gpt2"), Path(resolve_builtin("builtin:chitchat")).name
        ('gpt2', 'chitchat')
    """
    inside = name.removeprefix("builtin:")
    if inside == name:
        return checked_name(name)
    folder = Path(str(files("convmodel"))) / "assets" / inside
    if Path(inside).name != inside or not (folder / "config.json").is_file():
        raise ModelLoadError(f"the package has no model {name}: use {CHITCHAT}")
    return str(folder)
