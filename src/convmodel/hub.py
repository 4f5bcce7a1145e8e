"""Files of a tokenizer, from a folder, from inside the package or from the hub.

Owns: telling a folder from a hub id, finding a checkpoint's layout, and translating Hugging Face's load errors.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmodel.architecture import embeds_token_types
from convmodel.builtin import located
from convmodel.errors import ModelLoadError
from convmodel.layout_config import FILE_NAME, LayoutConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def load_tokenizer(name: str, options: dict[str, Any]) -> "tuple[PreTrainedTokenizerBase, LayoutConfig | None]":
    """Loads a Hugging Face tokenizer, and the layout saved beside it if there is one.

    Args:
        name: A folder, a hub id or a model of the package.
        options: Some of `HUB_OPTIONS`.

    Raises:
        ModelLoadError: If there is no tokenizer, or the layout is corrupted or of a newer format.
    """
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    name = located(name)
    if _is_path(name) and not Path(name).is_dir():
        raise ModelLoadError(f"there is no folder {name}: give a folder that holds a model, or a hub id")
    plain = {key: value for key, value in options.items() if key not in _NOT_FOR_ONE_FILE}
    try:
        found = cached_file(name, FILE_NAME, _raise_exceptions_for_missing_entries=False, **plain)
        layout = LayoutConfig.read(Path(found)) if found else None
        hf_tokenizer = AutoTokenizer.from_pretrained(name, **options)
        if not hf_tokenizer.vocab_size:
            # transformers makes an empty GPT-2 vocabulary where it finds no files.
            raise ValueError("there are no tokenizer files")
        return hf_tokenizer, layout
    except ModelLoadError:
        raise
    except Exception as error:  # tokenizers raises no narrower one
        raise load_error("tokenizer", name, error) from error


def adapter_folder(name: str, options: dict[str, Any]) -> Path | None:
    """Finds the files of adapters in a folder or on the hub; None where there is a whole model."""
    from transformers.utils import cached_file

    name = located(name)
    plain = {key: value for key, value in options.items() if key not in _NOT_FOR_ONE_FILE}
    optional = {"_raise_exceptions_for_missing_entries": False}
    try:
        found = cached_file(name, ADAPTER_CONFIG, **optional, **plain)
        if not found:
            return None
        for other in (ADAPTER_WEIGHTS, BASE_FILE):
            cached_file(name, other, **optional, **plain)
        return Path(found).parent
    except (OSError, ValueError) as error:
        raise load_error("adapters", name, error) from error


def base_of_adapters(folder: Path) -> str:
    """Returns of which model some adapters are.

    Raises:
        ModelLoadError: If their file does not say.
    """
    try:
        return str(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError) as error:
        raise load_error("adapters", str(folder), error) from error


def options_of_base(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments for adapters without what says where these are, which their base is not."""
    return {name: value for name, value in options.items() if name not in ("revision", "subfolder")}


def takes_token_types(name: str, options: dict[str, Any]) -> bool:
    """Tells whether the architecture of a checkpoint embeds token types; yes where only a tokenizer is there."""
    from transformers import AutoConfig

    try:
        adapters = adapter_folder(name, options)
        if adapters is not None:
            name, options = base_of_adapters(adapters), options_of_base(options)
        return embeds_token_types(AutoConfig.from_pretrained(located(name), **options))
    except (OSError, ValueError, ModelLoadError):
        return True


def load_error(what: str, name: str, error: Exception) -> ModelLoadError:
    """Makes one sentence of what Hugging Face says when it cannot load."""
    reason = str(error).strip().split("\n", 1)[0]
    if Path(name).is_dir():
        return ModelLoadError(f"the folder {name} holds no usable {what}: {reason}")
    return ModelLoadError(
        f"there is no folder {name}, and the hub gave no {what} of that name ({reason}): "
        "check the name; without a network, give a folder"
    )


def _is_path(name: str) -> bool:
    """Tells a path from a hub id, which is `name` or `owner/name`."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name
