"""From a model's name to its files: a folder, a model inside the package, or the Hub.

Owns: telling a folder from a Hub id, the names of built-in models, the files of adapters, and translating Hugging
Face's load errors. Knows nothing about tokenizers or layouts.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from convmodel.errors import ModelLoadError

ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
"""What peft calls the files of adapters, and ours beside them, which tells of which weights they are."""

HUB_OPTIONS = frozenset(
    {
        "revision",
        "token",
        "cache_dir",
        "local_files_only",
        "subfolder",
        "trust_remote_code",
        "force_download",
        "gguf_file",
    }
)
"""Arguments of Hugging Face's `from_pretrained` that say where files come from."""

_NOT_FOR_ONE_FILE = frozenset({"trust_remote_code", "gguf_file"})


def find_file(name: str, file: str, options: dict[str, Any]) -> Path | None:
    """Finds one file of a model, downloading it if need be; None if the model has no such file.

    Args:
        name: A folder or a Hub id.
        file: The file's name.
        options: Some of `HUB_OPTIONS`.

    Raises:
        OSError: If the Hub cannot be reached or has no such model.
        ValueError: If `name` is not a valid Hub id.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if Path(name).is_dir():
        path = Path(name, options.get("subfolder") or "", file)
        return path if path.is_file() else None
    plain = {key: value for key, value in options.items() if key not in _NOT_FOR_ONE_FILE}
    try:
        return Path(hf_hub_download(name, file, **plain))
    except EntryNotFoundError:  # also where there is no network and the file was never downloaded
        return None


def adapter_folder(name: str, options: dict[str, Any]) -> Path | None:
    """Finds the files of adapters in a folder or on the hub; None where there is a whole model."""
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
    """Returns of which model some adapters are.

    Raises:
        ModelLoadError: If their file does not say.
    """
    try:
        return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError) as error:
        raise load_error("adapters", str(folder), error) from error


def base_options(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments for adapters without what says where these are, which their base is not."""
    return {name: value for name, value in options.items() if name not in ("revision", "subfolder")}


def upload_folder(folder: str, repo_id: str, *, private: bool | None, token: str | None) -> str:
    """Uploads a folder to a repository on the Hub, made if missing, and returns its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Upload a conversation model")
    return str(url)


def load_error(what: str, name: str, error: Exception) -> ModelLoadError:
    """Makes one sentence of what Hugging Face says when it cannot load."""
    reason = str(error).strip().split("\n", 1)[0]
    if Path(name).is_dir():
        return ModelLoadError(f"the folder {name} holds no usable {what}: {reason}")
    return ModelLoadError(
        f"there is no folder {name}, and the hub gave no {what} of that name ({reason}): "
        "check the name; without a network, give a folder"
    )


def is_path(name: str) -> bool:
    """Tells a path from a hub id, which is `name` or `owner/name`."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name


PREFIX = "builtin:"


CHITCHAT = "builtin:chitchat"
"""Small talk in English; `scripts/train_builtin.py` makes it."""


def resolve_builtin(name: str) -> str:
    """Returns the folder of a model inside the package, and any other name as it is.

    Raises:
        ModelLoadError: If the package has no such model.

    Example:
        >>> resolve_builtin("gpt2"), Path(resolve_builtin("builtin:chitchat")).name
        ('gpt2', 'chitchat')
    """
    if not name.startswith(PREFIX):
        return name
    inside = name.removeprefix(PREFIX)
    folder = Path(str(files("convmodel"))) / "assets" / inside
    if Path(inside).name != inside or not (folder / "config.json").is_file():
        raise ModelLoadError(f"there is no model {name} in the package: there is {CHITCHAT}")
    return str(folder)
