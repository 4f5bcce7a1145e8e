"""Whether the Hub answers, what is in its cache, and downloads of weights.

Owns: how long to wait for the Hub, and which files of a model are its weights. What a name means is in `hub`.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

from convmodel.errors import ModelLoadError
from convmodel.files.hub import (
    ADAPTER_CONFIG,
    CHITCHAT,
    ONE_FILE_OPTIONS,
    gguf_path,
    is_local,
    load_error,
    near_name,
)

_PATIENCE = 5.0  # seconds to wait for the Hub's first answer
_WEIGHT_FILES = (
    r"model\.safetensors", r"model-\d+-of-\d+\.safetensors", r"adapter_model\.safetensors",
    r"pytorch_model\.bin", r"pytorch_model-\d+-of-\d+\.bin",
)  # fmt: skip
"""The weights of a model in order of preference, which is that of transformers."""


def reachable_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options to load a model with: `local_files_only` if the Hub does not answer.

    Loading would otherwise wait for the Hub file by file.

    Raises:
        ModelLoadError: If the Hub does not answer and the model was never downloaded.
    """
    from huggingface_hub import constants

    if is_local(name, options):
        gguf_path(name, options)  # an unusable file is an error at once
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
    """Returns whether a model, or adapters, of this Hub id are in the cache: what the options select of it."""
    options = options or {}
    file = options.get("gguf_file")  # complete in itself
    try:
        return any(_is_cached(name, file, options) for file in ([file] if file else ["config.json", ADAPTER_CONFIG]))
    except ValueError:  # not a valid Hub id
        return False


def _is_cached(name: str, file: str, options: dict[str, Any]) -> bool:
    from huggingface_hub import try_to_load_from_cache

    place = {key: options.get(key) for key in ("cache_dir", "revision")}
    return isinstance(try_to_load_from_cache(name, _in_repository(file, options), **place), str)


def _in_repository(file: str, options: dict[str, Any]) -> str:
    """Returns the name that a file of a model has in the repository."""
    folder = options.get("subfolder")
    return f"{folder}/{file}" if folder else file


def weights_to_download(name: str, options: dict[str, Any]) -> dict[str, int]:
    """Returns the files of weights that loading a model would download, and their sizes in bytes; empty if unknown."""
    from huggingface_hub import HfApi

    if is_local(name, options):
        return {}
    try:
        api = HfApi(token=options.get("token"))
        info = api.model_info(name, revision=options.get("revision"), files_metadata=True)
    except Exception:  # what is wrong is reported when the model is loaded
        return {}
    prefix, gguf_file = _in_repository("", options), options.get("gguf_file")
    siblings = [file for file in info.siblings or () if file.rfilename.startswith(prefix)]
    sizes = {file.rfilename.removeprefix(prefix): file.size or 0 for file in siblings}
    for pattern in [re.escape(gguf_file)] if gguf_file else _WEIGHT_FILES:
        if files := [file for file in sizes if re.fullmatch(pattern, file)]:
            return {file: sizes[file] for file in files if not _is_cached(name, file, options)}
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

    chosen = {key: options[key] for key in options.keys() & ONE_FILE_OPTIONS}
    for file in files:
        try:
            hf_hub_download(name, file, tqdm_class=Forward, **chosen)
        except (OSError, ValueError) as error:
            raise load_error("weights", name, error) from error


def _offline_error(name: str) -> ModelLoadError:
    near = near_name(name)
    fix = f"{near} {CHITCHAT} needs no download" if near else f"connect, give a folder, or use {CHITCHAT}"
    return ModelLoadError(f"there is no folder {name}, and the Hub, which may have it, does not answer: {fix}")
