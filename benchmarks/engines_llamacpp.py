"""llama.cpp's side of `engines.py`, in an environment of its own:

python -m venv llama && llama/bin/pip install xllamacpp gguf safetensors

Writes a model of Llama's architecture as GGUF, in float32 and with 8-bit weights (Q8_0), and times what it is asked for
line by line on standard input: `{"kind": ..., "prompt": [...], "new": ..., "clients": ...}`.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp
from safetensors import safe_open


def main(folder: str, kind: str, threads: int, slots: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, f"{kind}.gguf")
        write(Path(folder), path, kind)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 1024 * slots
        parameters.n_parallel = slots
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.warmup = True
        server = xllamacpp.Server(parameters)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(server, json.loads(line))), flush=True)
        os._exit(0)  # its threads do not end by themselves


def answer(server: Any, request: dict[str, Any]) -> dict[str, float]:
    """Returns milliseconds of the prompt and per token, and the tokens per second of all clients together."""
    body = {
        "prompt": request["prompt"],
        "n_predict": request["new"],
        "ignore_eos": True,
        "temperature": 0.0,
        "cache_prompt": False,
        "stream": False,
    }
    results: list[Any] = []
    asking = [
        threading.Thread(target=lambda: results.append(server.handle_completions(body)))
        for _ in range(request["clients"])
    ]
    begin = time.perf_counter()
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    seconds = time.perf_counter() - begin
    result = results[0] if isinstance(results[0], dict) else json.loads(results[0])
    timings = result["timings"]
    return {
        "prompt_ms": timings["prompt_ms"],
        "token_ms": timings["predicted_per_token_ms"],
        "tokens_per_second": request["new"] * request["clients"] / seconds,
    }


NAMES = {
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


def write(folder: Path, path: Path, kind: str) -> None:
    """Writes the model's weights and vocabulary."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    control = {token["id"] for token in tokenizer["added_tokens"]}
    types = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([types[number in control] for number in range(config["vocab_size"])])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    with safe_open(folder / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118
            values = file.get_tensor(name).astype(np.float32)
            if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates neighbours, transformers halves
                count = heads if "q_proj" in name else shared
                size = values.shape[0] // count
                values = values.reshape(count, 2, size // 2, -1).swapaxes(1, 2).reshape(values.shape)
            add(writer, translated(name), values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def translated(name: str) -> str:
    parts = name.removeprefix("model.").removesuffix(".weight")
    if not parts.startswith("layers."):
        return {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[parts] + ".weight"
    _, number, rest = parts.split(".", 2)
    return f"blk.{number}.{NAMES[rest]}.weight"


def add(writer: Any, name: str, values: np.ndarray, kind: str) -> None:
    if kind == "F32" or values.ndim == 1:
        writer.add_tensor(name, values)
        return
    quantized = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(values, quantized), raw_dtype=quantized)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
