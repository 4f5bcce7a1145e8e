"""llama.cpp's server as a process of its own: `python -m convmodel.export.llama_cpp_server FILE THREADS CONTEXT`.

Owns: its settings. It is a process because llama.cpp ends the process that it runs in when a file is wrong, and its
threads do not end by themselves. Reads a key for requests from standard input, writes its address to standard output,
and ends when standard input is closed.
"""

import json
import os
import sys

LONGEST = 1280
"""Positions of a conversation that is compared."""


def main(path: str, threads: int, context: int) -> None:
    """Serves a file until standard input is closed."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = context
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = False
    parameters.use_jinja = True
    parameters.fit_params = False
    parameters.port = 0  # any that is free
    parameters.api_keys = [sys.stdin.readline().strip()]
    # Keys and values in float32, and no fused attention in float16: what is compared is the file.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(parameters)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
