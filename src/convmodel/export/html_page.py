"""A conversation model as one HTML page, which chats in any browser without a network.

Owns: the parts of the page, its Content-Security-Policy, and the self-check with which it begins. `html_weights` and
`html_vocabulary` own what the page carries of a model, the files in `page/` what it does.
"""

import base64
import copy
import hashlib
import html
import json
import re
import sys
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch

from convmodel.errors import ConfigError
from convmodel.export.html_vocabulary import character_classes, read_vocabulary
from convmodel.export.html_weights import PackedArrays, pack_arrays, require_computable, shape_of
from convmodel.generation.defaults import all_chat_sampling, chat_sampling
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import read_options
from convmodel.generation.respond import SPARE, respond
from convmodel.hf_model.generation_config import PENALTIES, SAMPLING_OPTIONS
from convmodel.hf_model.quantization import quantize_weights
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import ASSISTANT, RESPONSE, START, USER
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST_PAGE = 45_000_000
"""The limit of a page in bytes: a larger one takes browsers too long to open, and its model too long to respond."""

MOST_POSITIONS = 2048
"""How many positions a page uses at most: each further position slows the next token down, and a long prompt is read
again whenever its oldest turns leave."""

SCRIPTS = ("tokenizer.js", "layout.js", "sampling.js", "layers.js", "model.js", "chat.js")
"""The scripts of the page, each after those that it imports."""

POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; base-uri 'none'; form-action 'none'"
)
"""The Content-Security-Policy; https://www.w3.org/TR/CSP3/."""

_PROBE = ["Hello! How are you?", "I'm fine — 你好 😀\n42", "What's new?"]
_PROBE_TOKENS = 8

_COMPUTED = ("temperature", "top_k", "top_p")
_WITHOUT_EFFECT = SAMPLING_OPTIONS | PENALTIES


def make_page(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, *, title: str) -> str:
    """Returns an HTML page that chats with a model, in its int8 version; the model is not changed.

    Args:
        hf_model: A GPT-2 or a Llama, neither quantized nor with LoRA adapters.
        tokenizer: Its tokenizer.
        title: The name of the model that the page shows.

    Raises:
        ConfigError: If the page cannot compute the model or its tokenizer, or would be larger than `LARGEST_PAGE`.
    """
    require_computable(hf_model)
    vocabulary = read_vocabulary(tokenizer)
    # At least: base64 has 4 characters for 3 bytes.
    _require_small(hf_model, sum(weight.numel() for weight in hf_model.parameters()) * 4 / 3)
    packed = pack_arrays(hf_model, vocabulary.merges)
    facts = {
        "id": hashlib.sha256(packed.content).hexdigest()[:16],
        "title": title,
        "shape": shape_of(hf_model),
        "arrays": packed.arrays,
        "tokens": vocabulary.tokens,
        "classes": character_classes(),
        "layout": _layout(tokenizer.layout),
        **_generation(hf_model, tokenizer),
        "probe": _probe(hf_model, tokenizer),
    }
    page = _fill(title, facts, packed)
    _require_small(hf_model, len(page))
    return page


def _require_small(hf_model: "PreTrainedModel", size: float) -> None:
    """Raises a `ConfigError` if a page of so many bytes is too large."""
    if size > LARGEST_PAGE:
        count = sum(weight.numel() for weight in hf_model.parameters())
        raise ConfigError(
            f"the model has {count / 1e6:.0f} million parameters, but a page has at most "
            f"{LARGEST_PAGE * 3 / 4 / 1e6:.0f} million: export another format, or train a smaller model"
        )


def _layout(layout: LayoutConfig) -> dict[str, Any]:
    """Returns the markers around the turns of two speakers, and what happens to their texts."""
    markers, template = layout.markers, layout.template
    openings: dict[str, dict[str, list[int]]] = {}
    for before in (START, USER, ASSISTANT):
        after = {role: [*markers.opening(before, role)] for role in (USER, ASSISTANT) if markers.follows(before, role)}
        if ASSISTANT in after:
            after[RESPONSE] = [*markers.opening(before, ASSISTANT, is_last=True)]
        openings[before] = after
    return {
        "openings": openings,
        "types": layout.use_token_types,
        "joins": template is not None or not layout.use_token_types,
        "trims": {} if template is None else template.trims,
        "leads": layout.leads,
        # Characters that Python's `strip` removes; JavaScript's `trim` removes others.
        "blanks": "".join(character for character in map(chr, range(sys.maxunicode)) if character.isspace()),
    }


def _generation(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> dict[str, Any]:
    """Returns the limits and the sampling of a chat.

    Raises:
        ConfigError: If the model's generation config sets an option that the page does not compute.
    """
    sampling = all_chat_sampling(hf_model)
    for name, value in _WITHOUT_EFFECT.items():
        if name not in _COMPUTED and (sampling[name] or 0) != (value or 0):
            raise ConfigError(
                f"the generation config sets {name}={sampling[name]!r}, which a page does not compute: remove it from "
                "generation_config.json"
            )
    options = read_options(hf_model, tokenizer, {"min_new_tokens": 1} | chat_sampling(hf_model))
    new_tokens = min(options.hf["max_new_tokens"], MOST_POSITIONS // 2)
    assert options.budget is not None  # GPT-2 and Llama have a number of positions
    return {
        "sampling": {"temperature": sampling["temperature"], "topP": sampling["top_p"], "topK": sampling["top_k"]},
        "budget": min(options.budget, MOST_POSITIONS - new_tokens),
        "spare": SPARE,
        "newTokens": new_tokens,
        "stopIds": sorted(options.stop_token_ids),
    }


def _probe(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> dict[str, Any]:
    """Returns a prompt and the tokens that the int8 model generates from it, for the page to check itself by."""
    quantized: Any = copy.deepcopy(hf_model)
    quantized = quantized.to("cpu", torch.float32).eval()
    quantize_weights(quantized, "int8")
    limits = dict.fromkeys(("max_new_tokens", "min_new_tokens"), _PROBE_TOKENS)
    options = read_options(quantized, tokenizer, {"do_sample": False} | limits)
    output = respond(Engine(quantized), tokenizer, _PROBE, options)
    ids = output.raw.sequences[0].tolist()
    prompt, tokens = ids[: output.prompt_tokens], ids[output.prompt_tokens :]
    return {"texts": _PROBE, "budget": options.budget, "ids": prompt, "tokens": tokens}


def _fill(title: str, facts: dict[str, Any], packed: PackedArrays) -> str:
    """Puts the parts into the page."""
    style, script = _source("page.css"), "".join(_inlined(_source(name)) for name in SCRIPTS)
    parts = {
        "title": html.escape(title),
        "policy": POLICY.format(script=_hash(script), style=_hash(style)),
        "style": style,
        "facts": json.dumps(facts, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "weights": base64.b64encode(packed.content).decode(),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _source("page.html"))


def _source(name: str) -> str:
    return (files("convmodel.export") / "page" / name).read_text(encoding="utf-8")


def _inlined(script: str) -> str:
    """Returns a module as a part of one script: without its imports and exports, whose names are unique."""
    return re.sub(r"^import .*\n|^export ", "", script, flags=re.MULTILINE)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
