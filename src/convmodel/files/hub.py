"""From a model's name to its files: in a folder, a GGUF file, inside the package, or on the Hub.

Owns: distinguishing a folder, a file and a Hub id, the names of built-in models, the files of adapters, that no code
of a model is run, and one-sentence messages for Hugging Face's load errors. Knows nothing about tokenizers or layouts.
"""

import json
import os
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from convmodel.errors import ModelLoadError
from convmodel.files.gguf import SUFFIX, is_gguf, read_header

ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
"""peft's files of adapters, and ours beside them, which identifies the weights that they were trained on."""

ONE_FILE_OPTIONS = frozenset({"revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download"})
HUB_OPTIONS = ONE_FILE_OPTIONS | {"trust_remote_code", "gguf_file"}
"""Arguments of Hugging Face's `from_pretrained` that select where files come from."""


def name_of(name_or_path: object) -> str:
    """Returns the name of a model, given as text or as a path.

    Raises:
        ModelLoadError: If it is neither, or empty.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        kind = type(name_or_path).__name__
        raise ModelLoadError(
            f"a model is loaded by its folder or its name on the Hub, not by a {kind}: give one of them"
        )
    if not os.fspath(name_or_path):
        raise ModelLoadError("the name of the model is empty: give its folder, or its name on the Hub")
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

    if is_gguf(name):  # complete in itself: files beside it belong to other models
        return None
    if Path(name).is_dir():
        path = Path(name, options.get("subfolder") or "", file)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, file, **{key: options[key] for key in options.keys() & ONE_FILE_OPTIONS}))
    except EntryNotFoundError:  # also raised without a network if the file was never downloaded
        return None


def gguf_path(name: str, options: dict[str, Any]) -> Path | None:
    """Returns the GGUF file that a name, or the option `gguf_file`, stands for, after checking it; else None.

    Raises:
        MissingExtraError: If the package gguf is not installed.
        ModelLoadError: If there is no such file, or it is not a whole model.
    """
    path: Path | None = Path(name)
    if file := options.get("gguf_file"):
        try:
            path = find_file(resolve_builtin(name), file, options)
        except (OSError, ValueError) as error:
            raise load_error("GGUF file", name, error) from error
        if path is None:
            raise ModelLoadError(f"{name} has no file {file}: check the name of the file")
    elif not is_gguf(checked_name(name)):
        return None
    elif path is not None and not path.is_file():
        raise ModelLoadError(f"there is no file {name}: {near_name(name) or 'check the path'}")
    return None if path is None else read_header(path).path


def is_local(name: str, options: dict[str, Any]) -> bool:
    """Returns whether a model can be loaded without asking the Hub."""
    folder = Path(resolve_builtin(name))
    return folder.is_dir() or is_path(name) or is_gguf(name) or bool(options.get("local_files_only"))


def is_on_hub(name: str) -> bool:
    """Returns whether a name can only be that of a repository of the Hub."""
    return name.count("/") == 1 and not (is_path(name) or is_gguf(name) or Path(name).exists())


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
    for kind, exists in (("folder", Path(name).is_dir()), ("file", Path(name).is_file())):
        if exists:
            return ModelLoadError(f"the {kind} {name} holds no usable {what}: {reason}")
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


def near_name(name: str) -> str:
    """Returns a question for a name close to that of a model beside it or of the built-in model; else nothing."""
    place = Path(name).parent
    try:
        folders = [str(path) for path in place.iterdir() if _may_be_model(path)]
    except OSError:
        folders = []
    inside = CHITCHAT.partition(":")[2]
    written = {folder.lower(): folder for folder in folders} | {inside: CHITCHAT, CHITCHAT: CHITCHAT}
    near = get_close_matches(str(Path(name)).lower(), written, n=1, cutoff=0.75)
    return f"did you mean {written[near[0]]}?" if near else ""


def _may_be_model(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.suffix.lower() == SUFFIX)


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

CHITCHAT_RATE = "1e-3"
"""The learning rate for fine-tuning it; larger models learn with the default of `fit`."""


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


def sample_file(name: str) -> Path:
    """Returns the file of the package's sample conversations called `train`, `valid` or `test`."""
    return Path(str(files("convmodel"))) / "assets" / "sample" / f"{name}.jsonl"
