"""Tiny GGUF files as llama.cpp's converter writes them.

Owns: the names and transformations of Llama's weights there. Knows nothing of convmodel.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import AutoTokenizer, LlamaForCausalLM

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    folder: Path,
    *,
    kind: str = "F32",
    pre: str | None = "smollm",
    architecture: str = "llama",
    extra: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Writes the Llama in a folder, which has a byte-level tokenizer; `extra` are further entries of the metadata."""
    model = LlamaForCausalLM.from_pretrained(folder)
    config: Any = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q8_0 if kind == "Q8_0" else gguf.LlamaFileType.ALL_F32))
    _add_vocabulary(writer, AutoTokenizer.from_pretrained(folder), pre)
    for name, value in (extra or {}).items():
        add: Any = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(name, value)
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates neighbours, transformers halves
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
        _add_tensor(writer, _translated(name), values, kind)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, hf_tokenizer: Any, pre: str | None) -> None:
    state = json.loads(hf_tokenizer.backend_tokenizer.to_str())
    entries = {index: token for token, index in hf_tokenizer.get_vocab().items()}
    special = {token["id"]: token["special"] for token in state["added_tokens"]}
    kinds = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([entries[index] for index in range(len(entries))])
    writer.add_token_types([kinds[special.get(index)] for index in range(len(entries))])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    )
    for name in ("bos", "eos", "pad"):
        index = getattr(hf_tokenizer, f"{name}_token_id")
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)


def _translated(name: str) -> str:
    parts = name.removeprefix("model.").removesuffix(".weight")
    if not parts.startswith("layers."):
        return {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[parts] + ".weight"
    _, number, rest = parts.split(".", 2)
    return f"blk.{number}.{_NAMES[rest]}.weight"


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if kind == "F32" or values.ndim == 1:
        writer.add_tensor(name, values)
        return
    quantized = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(values, quantized), raw_dtype=quantized)
