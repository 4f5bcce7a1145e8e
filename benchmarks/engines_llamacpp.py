"""llama.cpp's side of `engines.py`, in an environment of its own:

python -m venv llama && llama/bin/pip install xllamacpp

Loads a GGUF file, and measures the requests of `engines_protocol.py`.
"""

import json
import os
import sys
import threading
import time
from typing import Any

import xllamacpp
from engines_protocol import Measured, answer_lines


def main(path: str, threads: int, slots: int) -> None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = 1024 * slots
    parameters.n_parallel = slots
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = True
    server = xllamacpp.Server(parameters)
    answer_lines(lambda request: answer(server, request))
    os._exit(0)  # its threads do not end by themselves


def answer(server: Any, request: dict[str, Any]) -> Measured:
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


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
