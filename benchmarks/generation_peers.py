"""CTranslate2's side of `generation.py`, in an environment of its own:

python -m venv peers && peers/bin/pip install ctranslate2 transformers torch

Converts a GPT-2 to int8, then prints the milliseconds per token, without the prompt, for each line of standard input.
"""

import sys
import tempfile
import time
from pathlib import Path

import ctranslate2
from ctranslate2.converters import TransformersConverter


def main(model: str, length: int, new: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder, "ct2"))
        TransformersConverter(model).convert(out, quantization="int8")
        generator = ctranslate2.Generator(out, device="cpu", compute_type="int8", intra_threads=2)
        words = [generator_token(index) for index in range(length)]

        def seconds(count: int) -> float:
            begin = time.perf_counter()
            generator.generate_batch(
                [words], max_length=count, min_length=count, include_prompt_in_result=False, sampling_topk=1
            )
            return time.perf_counter() - begin

        for _ in sys.stdin:
            print((seconds(new + 1) - seconds(1)) / new * 1000, flush=True)


def generator_token(number: int) -> str:
    """Returns any word of GPT-2's vocabulary."""
    return ("Ġthe", "Ġcat", "Ġdog", "Ġsaid", "Ġyes", "Ġno", "Ġwell", "Ġnow")[number % 8]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
