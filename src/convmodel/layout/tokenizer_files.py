"""Loading and saving a tokenizer and its layout: from a folder, a GGUF file, the package or the Hub, and to a folder.

Owns: what is read to build a tokenizer: its files, the layout config, the ids that end a response, and whether the
architecture embeds token types.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmodel.errors import ModelLoadError
from convmodel.files.atomic import staged
from convmodel.files.download import reachable_options
from convmodel.files.hub import (
    adapter_base,
    adapter_folder,
    base_options,
    code_option,
    find_file,
    gguf_path,
    is_path,
    load_error,
    near_name,
    remote_code_error,
    resolve_builtin,
)
from convmodel.layout.architecture import embeds_token_types
from convmodel.layout.config import FILE_NAME, LayoutConfig
from convmodel.layout.gguf import load_gguf_config, load_gguf_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(
    name: str, options: dict[str, Any]
) -> "tuple[PreTrainedTokenizerBase, LayoutConfig | None, tuple[int, ...]]":
    """Loads a Hugging Face tokenizer, and the layout saved with it, if any; the options are some of `HUB_OPTIONS`.

    Also returns the ids that end a response by the model's `generation_config.json`, or its GGUF file, if any.

    Raises:
        ModelLoadError: If there is no tokenizer, or the layout is invalid or of another format.
    """
    from transformers import AutoTokenizer

    name = resolve_builtin(name)
    if path := gguf_path(name, options):
        load_gguf_config(path)  # an architecture that cannot be loaded is an error here, too
        hf_tokenizer, ends = load_gguf_tokenizer(path)
        return hf_tokenizer, None, ends
    if is_path(name) and not Path(name).is_dir():
        fix = near_name(name) or "give a folder with a model, or a Hub id"
        raise ModelLoadError(f"there is no folder {name}: {fix}")
    options = reachable_options(name, options)
    try:
        saved = find_file(name, FILE_NAME, options)
        layout = LayoutConfig.read(saved) if saved else None
        hf_tokenizer = AutoTokenizer.from_pretrained(name, **code_option(options))
        if not hf_tokenizer.vocab_size:
            # transformers returns an empty GPT-2 vocabulary if it finds no files.
            raise ValueError("there are no tokenizer files")
        if hf_tokenizer.init_kwargs.get("auto_map") and not options.get("trust_remote_code"):
            _require_known_class(name, options)
        return hf_tokenizer, layout, _stop_ids(find_file(name, "generation_config.json", options))
    except ModelLoadError:
        raise
    except Exception as error:  # tokenizers raises bare exceptions
        raise load_error("tokenizer", name, error) from error


def _stop_ids(path: Path | None) -> tuple[int, ...]:
    """Reads the ids that end a response from a generation config; none if it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return ()
    ids = content.get("eos_token_id") if isinstance(content, dict) else None
    listed = ids if isinstance(ids, list) else [ids]
    return tuple(index for index in listed if isinstance(index, int) and index >= 0)


def _require_known_class(name: str, options: dict[str, Any]) -> None:
    """Refuses a tokenizer whose class comes with it: transformers would replace it by another one that it knows."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    path = find_file(name, "tokenizer_config.json", options)
    named = json.loads(path.read_text(encoding="utf-8")).get("tokenizer_class") if path else None
    if named and tokenizer_class_from_name(named) is None:
        raise remote_code_error("tokenizer", name)


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
    if path := gguf_path(name, options):
        return load_gguf_config(path)
    try:
        return AutoConfig.from_pretrained(resolve_builtin(name), **code_option(options))
    except (OSError, ValueError) as error:
        raise load_error("config", name, error) from error


def save_tokenizer(hf_tokenizer: Any, layout: LayoutConfig, end_token_id: int, folder: str | os.PathLike[str]) -> None:
    """Writes a tokenizer, whose end-of-text token is the one that ends a response, and its layout.

    Raises:
        SaveError: If the folder cannot be written.
    """
    with staged(folder) as stage:
        end_of_text = hf_tokenizer.eos_token
        hf_tokenizer.eos_token = hf_tokenizer.convert_ids_to_tokens(end_token_id)
        try:
            hf_tokenizer.save_pretrained(stage)
        finally:
            hf_tokenizer.eos_token = end_of_text
        (stage / FILE_NAME).write_text(layout.to_json(), encoding="utf-8", newline="\n")
