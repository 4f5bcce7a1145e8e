"""Compares a model with int8 weights with float32: perplexity, bits per byte and time.

    python benchmarks/quantization.py MODEL test.jsonl [--limit 20] [--max-length 512]

Both are the same model on the same conversations, in one process, float32 first.
"""

import argparse
import time

from convmodel import ConversationModel
from convmodel.data.reading.reader import read_conversations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, default=None, help="number of conversations; by default all")
    parser.add_argument("--max-length", type=int, default=None)
    options = parser.parse_args()
    conversations = read_conversations(options.data)[: options.limit]
    perplexity = {}
    for name, quantize in (("float32", None), ("int8", "int8")):
        model = ConversationModel.from_pretrained(options.model, device="cpu", quantize=quantize)
        begin = time.perf_counter()
        result = model.evaluate(conversations, max_length=options.max_length)
        seconds = time.perf_counter() - begin
        perplexity[name] = result.perplexity
        print(
            f"{name:8} perplexity {result.perplexity:.4f}, {result.bits_per_byte:.4f} bits per byte, "
            f"{result.tokens:,} tokens in {seconds:.0f} s"
        )
    print(f"int8 is {100 * (perplexity['int8'] / perplexity['float32'] - 1):+.3f} % in perplexity")


if __name__ == "__main__":
    main()
