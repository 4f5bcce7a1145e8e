"""Loading a tokenizer and the layout saved with it, from a folder, the package or the Hub.

Owns: what is read to build a tokenizer: its files, the layout config, and whether the architecture embeds token types.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmodel.errors import ModelLoadError
from convmodel.files.hub import (
    adapter_base,
    adapter_folder,
    base_options,
    find_file,
    is_path,
    load_error,
    resolve_builtin,
)
from convmodel.layout.architecture import embeds_token_types
from convmodel.layout.config import FILE_NAME, LayoutConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str, options: dict[str, Any]) -> "tuple[PreTrainedTokenizerBase, LayoutConfig | None]":
    """Loads a Hugging Face tokenizer, and the layout saved with it, if any; the options are some of `HUB_OPTIONS`.

    Raises:
        ModelLoadError: If there is no tokenizer, or the layout is invalid or of another format.
    """
    from transformers import AutoTokenizer

    name = resolve_builtin(name)
    if is_path(name) and not Path(name).is_dir():
        raise ModelLoadError(f"there is no folder {name}: give a folder with a model, or a Hub id")
    try:
        saved = find_file(name, FILE_NAME, options)
        layout = LayoutConfig.read(saved) if saved else None
        hf_tokenizer = AutoTokenizer.from_pretrained(name, **options)
        if not hf_tokenizer.vocab_size:
            # transformers returns an empty GPT-2 vocabulary if it finds no files.
            raise ValueError("there are no tokenizer files")
        return hf_tokenizer, layout
    except ModelLoadError:
        raise
    except Exception as error:  # tokenizers raises bare exceptions
        raise load_error("tokenizer", name, error) from error


def takes_token_types(name: str, options: dict[str, Any]) -> bool:
    """Returns whether the architecture of a checkpoint embeds token types; True for a tokenizer without a model."""
    try:
        return embeds_token_types(load_config(name, options))
    except ModelLoadError:
        return True


def load_config(name: str, options: dict[str, Any]) -> Any:
    """Loads the `PretrainedConfig` of a checkpoint; of adapters, that of their base.

    Raises:
        ModelLoadError: If there is none.
    """
    from transformers import AutoConfig

    adapters = adapter_folder(name, options)
    if adapters is not None:
        name, options = adapter_base(adapters), base_options(options)
    try:
        return AutoConfig.from_pretrained(resolve_builtin(name), **options)
    except (OSError, ValueError) as error:
        raise load_error("config", name, error) from error
