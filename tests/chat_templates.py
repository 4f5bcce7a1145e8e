"""Chat templates in the forms that model families use, and a small tokenizer for each.

Owns: what their layouts can trip over. Written for these tests; the forms are those of the families, not their texts.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenizers_zoo import LLAMA3_WORDS, save, tiny_llama, train_bpe


@dataclass(frozen=True)
class Form:
    """A form of chat template, and what is to be measured of it."""

    template: str
    specials: tuple[str, ...]  # the first one is the beginning of text, the second one the end
    ends: tuple[str, str]  # of the user's turns and of the assistant's
    has_system: bool = True
    assistant_begins: bool = True
    reopens: bool = False
    dated: bool = False
    switches: dict[str, bool] = field(default_factory=dict)
    trims: dict[str, str] = field(default_factory=dict)
    has_prefix: bool = False  # whether the vocabulary marks the beginning of a text by a space


CHATML = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}{{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' -}}{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

LLAMA3 = """\
{{- bos_token -}}
{%- set day = strftime_now('%d %b %Y') if strftime_now is defined else '1 Jan 2000' -%}
{%- if messages[0].role == 'system' -%}
{%- set system, messages = messages[0].content | trim, messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday is ' + day + '\\n\\n' + system + '<|eot_id|>' -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

GEMMA = """\
{{- bos_token -}}
{%- set opening = '' -%}
{%- if messages[0].role == 'system' -%}
{%- set opening, messages = messages[0].content + '\\n\\n', messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate') -}}
{%- endif -%}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}
{{- (opening if loop.first else '') + message.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""

MISTRAL = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
{%- set system, messages = messages[0].content, messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate') -}}
{%- endif -%}
{%- if message.role == 'user' -%}
{{- '[INST]' + (system + '\\n\\n' if loop.last and system is defined else '') + message.content + '[/INST]' -}}
{%- else -%}{{- message.content + eos_token -}}{%- endif -%}
{%- endfor -%}"""

PHI = """\
{%- for message in messages -%}
{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' -}}
{%- endfor -%}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token -}}"""

ZEPHYR = """\
{%- for message in messages -%}
{{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' -}}
{%- if loop.last and add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
{%- endfor -%}"""

REWRITING = """\
{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' and loop.index0 > last.user -%}
{{- '<think>\\n' + message.get('reasoning_content', '') + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""

NEXT_ROLE_ENDS = """\
{{- '[gMASK]' -}}
{%- for message in messages -%}{{- '<|' + message.role + '|>\\n' + message.content -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"""

SPACED = CHATML.replace("'\\n' + message.content", "': ' + message.content").replace(
    "assistant\\n' -}}{%- endif", "assistant:' -}}{%- endif"
)
"""A space that a byte-level vocabulary makes part of the first word stands before each text."""

_IM = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

FORMS: dict[str, Form] = {
    "chatml": Form(CHATML, _IM, ("<|im_end|>", "<|im_end|>")),
    "llama3": Form(
        LLAMA3,
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        ("<|eot_id|>", "<|eot_id|>"),
        dated=True,
        trims=dict.fromkeys(("system", "user", "assistant"), "strip"),
    ),
    "gemma": Form(
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>", "<end_of_turn>"),
        assistant_begins=False,
        trims=dict.fromkeys(("user", "assistant"), "strip"),
    ),
    "mistral": Form(
        MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), ("[/INST]", "</s>"), has_system=False, assistant_begins=False
    ),
    "phi": Form(PHI, ("<s>", "<|endoftext|>", "<|end|>", *_ROLES), ("<|end|>", "<|end|>")),
    "zephyr": Form(ZEPHYR, ("<s>", "</s>"), ("</s>", "</s>")),
    "zephyr, prefixed": Form(ZEPHYR, ("<s>", "</s>"), ("</s>", "</s>"), has_prefix=True),
    "rewriting": Form(
        REWRITING,
        (*_IM, "<think>", "</think>"),
        ("<|im_end|>", "<|im_end|>"),
        reopens=True,
        switches={"enable_thinking": False},
    ),
    "next role ends": Form(NEXT_ROLE_ENDS, ("[gMASK]", "<|endoftext|>", *_ROLES), ("<|assistant|>", "<|user|>")),
}
"""The usable forms by name."""

REFUSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "text only": (
        "{%- for m in messages -%}{{- '### ' + m.role + ':\\n' + m.content + '\\n\\n' -}}{%- endfor -%}",
        ("<s>", "</s>"),
        "nothing but text.* so that a text could pretend to be another turn",
    ),
    "no token for its marks": (CHATML, ("<s>", "</s>"), "nothing but text"),
    "open thoughts": (
        REWRITING.replace("is defined and not enable_thinking", "is not defined or enable_thinking").replace(
            "\\n\\n</think>", ""
        ),
        (*_IM, "<think>", "</think>"),
        "a response is generated after .*<think>.* but stands in a conversation after",
    ),
    "changed text": (CHATML.replace("message.content", "message.content | upper"), _IM, "does not stand"),
    "changed by position": (
        CHATML.replace("message.role + '\\n'", "message.role + ('!' if loop.index0 > 3 else '') + '\\n'"),
        _IM,
        "not the same each time",
    ),
    "raises": ("{{- raise_exception('not for you') -}}", _IM, "cannot be rendered: not for you"),
    "needs a function": ("{{- my_library(messages) -}}", _IM, "cannot be rendered: 'my_library' is undefined"),
    "is no template": ("{%- for -%}", _IM, "cannot be rendered"),
    "loops": (
        "{%- for a in range(99999) -%}{%- for b in range(99999) -%}{%- endfor -%}{%- endfor -%}",
        _IM,
        "takes longer than",
    ),
    "writes much": ("{%- for a in range(90000) -%}{{- '12345' -}}{%- endfor -%}", _IM, "writes 450,000 characters"),
    "is long": (CHATML + "{# " + "x" * 1_000_000 + " #}", _IM, "has 1,000,.* characters, more than 200,000"),
    "is empty": ("", _IM, "no chat template"),
}
"""Templates that cannot be a layout: template, special tokens, and why."""


def make_tokenizer(template: str, specials: tuple[str, ...], *, has_prefix: bool = False) -> PreTrainedTokenizerBase:
    """Returns a byte-level BPE of a few hundred tokens, or one with space marks, with a chat template."""
    backend = Tokenizer(models.BPE(byte_fallback=has_prefix, unk_token="<unk>" if has_prefix else None))
    if has_prefix:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        strip: Any = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(strip)
        train_bpe(backend, ["<unk>"])
        state = json.loads(backend.to_str())
        for byte in range(256):  # as ordinary entries, like Llama 2's
            state["model"]["vocab"][f"<0x{byte:02X}>"] = len(state["model"]["vocab"])
        backend = Tokenizer.from_str(json.dumps(state))
    else:
        words = pre_tokenizers.Split(LLAMA3_WORDS, behavior="isolated")
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, by_bytes])
        backend.decoder = decoders.ByteLevel()
        train_bpe(backend)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=specials[0], eos_token=specials[1], extra_special_tokens=[*specials[2:]]
    )
    tokenizer.chat_template = template
    return tokenizer


def save_chat_model(folder: Path, name: str = "chatml") -> None:
    """Saves a tiny Llama with a chat template, as an instruct model is published."""
    form = FORMS[name]
    save(folder, make_tokenizer(form.template, form.specials, has_prefix=form.has_prefix), tiny_llama)
