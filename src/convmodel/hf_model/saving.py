"""Saving a model and its tokenizer into one folder.

Owns: the saved files (Hugging Face's, `convmodel_config.json`, chat template, generation config, model card),
written all or none. No pickle.
"""

import os
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from convmodel.files.atomic import remove_folder, staged
from convmodel.files.hub import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE, upload_folder
from convmodel.hf_model.adapter_files import require_base, save_adapters
from convmodel.hf_model.generation_config import sampling_defaults
from convmodel.hf_model.lora import has_adapters
from convmodel.hf_model.model_card import CARD
from convmodel.hf_model.quantization import count_parameters, require_unquantized
from convmodel.hf_model.reward_model import FILE as REWARD_FILE
from convmodel.hf_model.reward_model import reward_model_of
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def save_model(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, folder: str | os.PathLike[str]) -> None:
    """Checks that a model can be saved, and saves it; of a model with LoRA adapters, the adapters alone."""
    if has_adapters(hf_model):
        require_base(hf_model, folder)
    else:
        require_unquantized(hf_model, "saved")
    save_checkpoint(hf_model, tokenizer, folder)


def push_model(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    repo_id: str,
    *,
    private: bool | None,
    token: str | None,
) -> str:
    """Saves a model to the Hub, and returns its URL."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(hf_model, tokenizer, folder)
        return upload_folder(folder, repo_id, private=private, token=token)


def save_checkpoint(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    folder: str | os.PathLike[str],
    *,
    facts: dict[str, Any] | None = None,
    weights: "dict[str, torch.Tensor] | None" = None,
) -> None:
    """Writes a folder that plain `AutoModelForCausalLM` and `AutoTokenizer` can load.

    A model in it is replaced, other files stay. `facts` are rows for the model card, such as `{"Perplexity": "12.3"}`;
    `weights` are the gathered weights of a model that is sharded over processes.

    Raises:
        SaveError: If the folder cannot be written; its previous content is unchanged.
    """
    with staged(folder) as stage:
        place = Path(folder)
        try:
            _save_model(hf_model, tokenizer, stage, weights)
            tokenizer.save_pretrained(stage)
            if (reward := reward_model_of(hf_model)) is not None:
                (stage / REWARD_FILE).write_text(reward.to_json(), encoding="utf-8", newline="\n")
        except Exception as error:
            # On a full disk, safetensors raises its own error and tokenizers a bare Exception, neither an OSError.
            if isinstance(error, SafetensorError) or type(error) is Exception:
                raise OSError(str(error)) from error
            raise
        card = place / CARD
        # A card of an earlier save is replaced, any other README stays.
        if not card.exists() or "\nSaved by convmodel " in card.read_text(encoding="utf-8", errors="replace"):
            (stage / CARD).write_text(_model_card(hf_model, tokenizer, facts or {}), encoding="utf-8", newline="\n")
        new = {path.name for path in stage.iterdir()}
        stale = [path for path in place.iterdir() if _OF_A_MODEL.fullmatch(path.name) and path.name not in new]
    # Shards of a model saved here before would be loaded instead of the new weights, and templates beside the new one.
    for path in stale:
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)


_OF_A_MODEL = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|config\.json|additional_chat_templates|"
    + "|".join(map(re.escape, (ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE, REWARD_FILE)))
)
"""Files that belong to a saved model or adapters; other files in the folder stay."""


def _save_model(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    folder: Path,
    weights: "dict[str, torch.Tensor] | None",
) -> None:
    """Writes weights, config and generation config, with one end of a response; the model's own stay unchanged."""
    original = hf_model.generation_config
    configs = (hf_model.config, hf_model.config.get_text_config())
    ends = [getattr(config, "eos_token_id", None) for config in configs]
    hf_model.generation_config = sampling_defaults(original, tokenizer)
    try:
        for config in configs:  # some programs read the end of a response there
            _set_end(config, hf_model.generation_config.eos_token_id)
        if has_adapters(hf_model):
            save_adapters(hf_model, folder)
        else:
            hf_model.save_pretrained(folder, state_dict=weights)
    finally:
        hf_model.generation_config = original
        for config, end in zip(configs, ends, strict=True):
            config.eos_token_id = end


def _set_end(config: Any, end: int | list[int]) -> None:
    """Sets the end of a response: of several ids the first, the separator, if a configuration takes one (Inkling)."""
    try:
        config.eos_token_id = end
    except Exception:  # transformers' validation raises errors of the Hub's library
        if not isinstance(end, list):
            raise
        config.eos_token_id = end[0]


def describe(hf_model: "PreTrainedModel") -> str:
    """Returns architecture, size, dtype, device and origin of a model in one line."""
    origin = f", from {hf_model.name_or_path!r}" if hf_model.name_or_path else ""
    dtype = str(hf_model.dtype).removeprefix("torch.")
    return f"{_size(hf_model)}, {dtype} on {hf_model.device}{origin}"


def _size(hf_model: "PreTrainedModel") -> str:
    return f"{hf_model.config.model_type}, {count_parameters(hf_model):,} parameters"


def _model_card(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, facts: dict[str, Any]) -> str:
    layout = tokenizer.layout
    adapters = has_adapters(hf_model)
    rows = {
        "Architecture": _size(hf_model),
        "Token layout": f"{layout.name}, {tokenizer.layout_reason}",
        **_separator(tokenizer),
        "End of a response": ", ".join(f"id {index}" for index in tokenizer.stop_token_ids),
        "Token types": "the speaker's index" if layout.use_token_types else "none",
        "Supervised turns": layout.loss_on if isinstance(layout.loss_on, str) else ", ".join(layout.loss_on),
        "Longest window": f"{layout.max_length:,} tokens" if layout.max_length else "not trained with convmodel",
    }
    rows |= ({"LoRA adapters of": hf_model.name_or_path} if adapters else {}) | facts
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    library, plain = ("peft", _WITH_BASE) if adapters else ("transformers", _PLAIN)
    if layout.use_token_types:
        plain += _WITHOUT_TYPES
    return _CARD.format(version=version("convmodel"), table=table, library=library, plain=plain)


def _separator(tokenizer: ConversationTokenizer) -> dict[str, str]:
    layout, bos = tokenizer.layout, tokenizer.hf_tokenizer.bos_token
    rows = {"Separator": f"`{layout.separator_token}`, id {layout.separator_id}"} if layout.separator_token else {}
    return rows | ({} if layout.bos_id is None else {"Beginning of text": f"`{bos}`, id {layout.bos_id}"})


_CARD = """---
library_name: {library}
pipeline_tag: text-generation
tags: [convmodel, conversational]
---

# A conversation model

Saved by convmodel {version}.

| | |
|---|---|
{table}

```python
from convmodel import ConversationModel

model = ConversationModel.from_pretrained("path/to/this/folder")
model.generate(["Hello", "How are you"])
```

{plain}
"""

_PLAIN = "Plain transformers works too: `AutoTokenizer.apply_chat_template` renders the same token layout."
_WITH_BASE = "This folder has the adapters alone; the base model is loaded with them and must be unchanged."
_WITHOUT_TYPES = (
    " But this model was trained with token types, which the template cannot give, nor can vLLM or llama.cpp: without "
    "them it predicts worse. For such programs, fine-tune with `convmodel fit --token-types off`, or load the model to "
    "fine-tune with `use_token_types=False`."
)
