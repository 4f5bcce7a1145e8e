"""Files of LoRA adapters: saved alone in peft's format, and loaded with their base model.

Owns: what is written beside the adapters about their base, checking a base by it, and preparing it for them.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ConfigError, ModelLoadError
from convmodel.files.hub import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE
from convmodel.hf_model.embedding import grow_embedding, set_new_rows
from convmodel.hf_model.fingerprint import base_fingerprint
from convmodel.hf_model.lora import ADAPTER_NAME, BASE_FINGERPRINT, ROW_SOURCE, has_adapters, inject
from convmodel.hf_model.quantization import is_quantized
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BASE_FACTS = {"fingerprint": BASE_FINGERPRINT, ROW_SOURCE: ROW_SOURCE}  # in `BASE_FILE`
_QUANTIZE = "quantize"  # another fact: how the base's weights were packed in training, or None
_IN_FILE = "base_model.model."  # peft's prefix of each name


def require_base(hf_model: "PreTrainedModel", folder: str | os.PathLike[str], *, alone: bool = True) -> None:
    """Checks that adapters can be saved into a folder: `alone`, with the name of their base model, or merged.

    Raises:
        ConfigError: If the base has no name, because it was made or trained in memory, or it is in that folder.
    """
    base = hf_model.name_or_path
    if base and Path(folder).resolve() == Path(base).resolve():
        raise ConfigError(f"{folder} holds the base of these adapters: give another folder (--output-dir)")
    if alone and not base and is_quantized(hf_model):
        raise ConfigError(
            "the adapters would be saved alone, but their base is not a saved model: it has merged adapters: load it "
            "without quantize, call merge_adapters(), save it, and train from the saved model"
        )
    if alone and not base:
        raise ConfigError(
            "the adapters would be saved alone, but their base model is nowhere: save it and load it first, or give "
            "merge=True (--merge) for a whole model"
        )


def save_adapters(hf_model: "PreTrainedModel", folder: Path) -> None:
    """Writes the adapters alone, in peft's format."""
    from peft.utils.save_and_load import get_peft_model_state_dict
    from safetensors.torch import save_file

    config: Any = hf_model.peft_config[ADAPTER_NAME]
    base = str(hf_model.name_or_path)
    # An absolute path, because the adapters may be loaded from another working directory.
    config.base_model_name_or_path = str(Path(base).resolve()) if base and Path(base).is_dir() else base
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    config.save_pretrained(folder)
    facts = {name: hf_model.__dict__.get(attribute) for name, attribute in _BASE_FACTS.items()}
    facts[_QUANTIZE] = "int8" if is_quantized(hf_model) else None
    base_file = {"base_model": config.base_model_name_or_path} | facts
    (folder / BASE_FILE).write_text(json.dumps(base_file, indent=2), encoding="utf-8", newline="\n")
    # By default peft requests the base's vocabulary size from the Hub, and saves the whole embedding if ours is larger.
    state = get_peft_model_state_dict(hf_model, adapter_name=ADAPTER_NAME, save_embedding_layers=False)
    named = {f"{_IN_FILE}{name}": value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    hf_model.generation_config.save_pretrained(folder)


def trained_over(folder: Path) -> str | None:
    """Returns how the base's weights were packed when saved adapters were trained, one of `QUANTIZATIONS`, or None."""
    path = folder / BASE_FILE
    kept: str | None = json.loads(path.read_text(encoding="utf-8")).get(_QUANTIZE) if path.exists() else None
    return kept


def prepare_base(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, folder: Path) -> None:
    """Gives the base of adapters the rows of when they were added, of which they hold only the separator's, no bias."""
    if (separator := tokenizer.layout.separator_id) is None:
        return
    if not json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("trainable_token_indices"):
        grow_embedding(hf_model, separator + 1)
        return
    path = folder / BASE_FILE
    facts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    row_source = facts.get(ROW_SOURCE, tokenizer.end_of_text_id)
    set_new_rows(hf_model, separator, row_source)
    hf_model.__dict__[ROW_SOURCE] = row_source


def load_adapters(hf_model: "PreTrainedModel", folder: Path) -> None:
    """Loads saved adapters into their base model, in place, adding the layers if it has none.

    Raises:
        ModelLoadError: If it is another model, or the files are incomplete.
    """
    from peft import PeftConfig
    from peft.utils.save_and_load import get_peft_model_state_dict
    from safetensors.torch import load_file

    if not has_adapters(hf_model):
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        _require_fingerprint(hf_model, folder / BASE_FILE)
        inject(hf_model, config)
    saved = {name.removeprefix(_IN_FILE): value for name, value in load_file(folder / ADAPTER_WEIGHTS).items()}
    wanted = get_peft_model_state_dict(hf_model, adapter_name=ADAPTER_NAME, save_embedding_layers=False)
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ModelLoadError(f"{folder / ADAPTER_WEIGHTS} does not have the weights that its configuration describes")
    # In place: peft's own loading renames layers as transformers does in files of weights, and leaves out those whose
    # names it then does not find (Laguna's shared experts).
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(saved[name])


def _require_fingerprint(hf_model: "PreTrainedModel", path: Path) -> None:
    """Checks that a base has the weights that the adapters were trained on, if convmodel saved these."""
    if not path.exists() or hf_model.dtype == torch.float16:
        return
    base = json.loads(path.read_text(encoding="utf-8"))
    if base["fingerprint"] not in (None, base_fingerprint(hf_model)):
        raise ModelLoadError(
            f"the base model {base['base_model']} is not the one that the adapters in {path.parent} were trained on: "
            "its weights differ"
        )
