"""ONNX Runtime GenAI's side of `engines.py`, in an environment of its own:

    python -m venv ort && ort/bin/pip install onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 \\
        onnx-ir==1.1.0 torch==2.13.0 transformers==5.24.0

Its model builder needs all but the first two; of torch, a build for CPUs is enough. `build` writes a model, `serve`
loads it and measures the requests of `engines_protocol.py`. int8 and int4 have the builder's defaults: blocks of 32
weights, and activations rounded to int8. Several clients are one batch that begins and ends together, which is its best
case: clients that come and go need its paged cache, which the builder writes for GPUs only.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it must be set before ONNX Runtime is loaded, which else sends events

import numpy
import onnxruntime_genai
from engines_protocol import Measured, answer_lines


def build(model: str, weights: str, folder: str) -> None:
    """Converts a model's folder; only the last token of a prompt gets logits, as in our engine and in llama.cpp."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "--execution_provider", "cpu"]
    paths = ["--input", model, "--output", folder, "--cache_dir", folder]
    subprocess.run([*builder, *paths, "--precision", weights, "--extra_options", "prune_lm_head=true"], check=True)


def serve(folder: str, threads: str) -> None:
    config = onnxruntime_genai.Config(folder)
    session = {"intra_op_num_threads": int(threads)}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = onnxruntime_genai.Model(config)
    answer_lines(lambda request: answer(model, request))


def answer(model: Any, request: dict[str, Any]) -> Measured:
    """Times a batch of equal prompts; allocating its cache is a part of the prompt, as in our engine.

    `min_length` forbids the token that ends a response, where our engine continues after it.
    """
    prompt, new, clients = request["prompt"], request["new"], request["clients"]
    ids = numpy.array([prompt] * clients, dtype=numpy.int32)
    length = len(prompt) + new
    begin = time.perf_counter()
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, batch_size=clients, min_length=length, max_length=length)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(ids)  # which computes the logits, too
    generator.generate_next_token()
    first = time.perf_counter() - begin
    for _ in range(new - 1):
        generator.generate_next_token()
    seconds = time.perf_counter() - begin
    return {
        "prompt_ms": first * 1000,
        "token_ms": (seconds - first) / (new - 1) * 1000,
        "tokens_per_second": new * clients / seconds,
        "tokens": generator.get_sequence(0)[len(prompt) :].tolist(),
    }


if __name__ == "__main__":
    {"build": build, "serve": serve}[sys.argv[1]](*sys.argv[2:])
