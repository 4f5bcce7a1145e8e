"""Prunes a Llama to some of its layers and of its vocabulary, as the initialization of a small model.

    python scripts/prune_model.py SMOLLM2 train.jsonl OUT --layers 0 1 29 --vocab-size 8000

What is left has learned more than random weights have, and learns the rest again in a short training (DistilBERT is
initialized so, arXiv:1910.01108, section 3). The vocabulary keeps the entries that the conversations use most, and
those that they are merged from (arXiv:2010.05609 trims vocabularies, too).
"""

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

END, SEPARATOR = "<|endoftext|>", "<sep>"
SEPARATOR_FROM = "<|im_end|>"
"""The entry whose embedding the separator gets: it ended turns before."""
_FROM_128 = "\u00a1"
"""The first of the characters that stand for bytes from 128, in the alphabet of byte-level BPE."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Llama: a folder, or a GGUF file")
    parser.add_argument("conversations", type=Path, help="conversations whose words the vocabulary keeps")
    parser.add_argument("output", type=Path, help="folder of the pruned model, to be trained further")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="the layers that are kept, from 0")
    parser.add_argument("--vocab-size", type=int, required=True, help="entries that are kept")
    parser.add_argument("--positions", type=int, default=512, help="positions of the pruned model")
    options = parser.parse_args()
    prune(options.model, options.conversations, options.output, options.layers, options.vocab_size, options.positions)


def prune(
    model: str | Path, conversations: Path, output: Path, layers: Sequence[int], vocabulary_size: int, positions: int
) -> None:
    """Writes the pruned model, with its tokenizer."""
    from convmodel import ConversationModel
    from convmodel.data.reading.reader import read_conversations

    whole = ConversationModel.from_pretrained(model, layout="separator")
    turns = [turn for conversation in read_conversations(conversations) for turn in conversation.turns]
    spec = json.loads(whole.tokenizer.hf_tokenizer.backend_tokenizer.to_str())
    counts = Counter(index for turn in turns for index in whole.tokenizer.encode(turn))
    kept = kept_entries(spec["model"], counts, vocabulary_size - 2)
    output.mkdir(parents=True)
    rows = [spec["model"]["vocab"][entry] for entry in (END, SEPARATOR_FROM, *kept)]
    pruned = prune_weights(whole.hf_model, layers, rows)
    pruned.config.update({"max_position_embeddings": positions})
    pruned.save_pretrained(output)
    (output / "tokenizer.json").write_text(json.dumps(pruned_tokenizer(spec, kept), ensure_ascii=False), "utf-8")
    special = {"bos_token": END, "eos_token": END, "sep_token": SEPARATOR, "tokenizer_class": "TokenizersBackend"}
    (output / "tokenizer_config.json").write_text(json.dumps(special, indent=2), "utf-8")
    print(f"{output}: {pruned.num_parameters() / 1e6:.1f} M parameters, {len(rows):,} entries")


def kept_entries(bpe: Mapping[str, Any], counts: Counter[int], size: int) -> list[str]:
    """Returns the bytes and the entries that occur most, with those that they are merged from; in the order of ids.

    Args:
        bpe: The model of a tokenizer of the tokenizers library: `vocab` and `merges`.
        counts: How often each id occurs.
        size: The number of entries.
    """
    vocabulary = bpe["vocab"]
    entries = {index: entry for entry, index in vocabulary.items()}
    parts = {left + right: (left, right) for left, right in reversed(_merges(bpe))}  # the first merge that makes it
    kept = {byte for byte in ByteLevel.alphabet() if byte in vocabulary}
    for index, _ in counts.most_common():
        needed: set[str] = set()
        open_entries = [entries[index]]
        while open_entries:
            entry = open_entries.pop()
            if entry not in kept:
                needed.add(entry)
                open_entries.extend(parts.get(entry, ()))
        if len(kept | needed) <= size:
            kept |= needed
    return sorted(kept - {END, SEPARATOR_FROM}, key=lambda entry: vocabulary[entry])


def complete_bytes(source: Path, target: Path) -> None:
    """Writes a trained model that can encode any text: SmolLM2 lacks 21 bytes, and drops characters that have them.

    The conversations do not have them, either, so that there is nothing to train: their embeddings are the mean of
    those of the bytes from 128, which are hardly ever predicted.
    """
    from transformers import LlamaForCausalLM

    shutil.copytree(source, target)
    spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = spec["model"]["vocab"]
    model = LlamaForCausalLM.from_pretrained(source)
    known = [vocabulary[byte] for byte in ByteLevel.alphabet() if byte in vocabulary and byte >= _FROM_128]
    missing = sorted(set(ByteLevel.alphabet()) - vocabulary.keys())
    model.resize_token_embeddings(len(vocabulary) + len(missing), mean_resizing=False)
    weight = model.get_input_embeddings().weight.data
    weight[len(vocabulary) :] = weight[known].mean(0)
    vocabulary |= {byte: index for index, byte in enumerate(missing, start=len(vocabulary))}
    model.save_pretrained(target)
    (target / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")


def pruned_tokenizer(spec: dict[str, Any], kept: Sequence[str]) -> dict[str, Any]:
    """Returns a tokenizer of the entries that are kept, after the end of a text and the separator."""
    vocabulary = {entry: index for index, entry in enumerate((END, SEPARATOR, *kept))}
    merges = [
        [left, right] for left, right in _merges(spec["model"]) if {left, right, left + right} <= vocabulary.keys()
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": index, "content": entry} | flags for index, entry in enumerate((END, SEPARATOR))]
    model = spec["model"] | {"vocab": vocabulary, "merges": merges}
    # SmolLM2 splits numbers into digits first; it has no entry of several digits, so the ids are the same without.
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return spec | {"model": model, "added_tokens": added, "post_processor": None, "pre_tokenizer": words}


def prune_weights(whole: Any, layers: Sequence[int], rows: Sequence[int]) -> Any:
    """Returns a Llama of some layers, and of some rows of the embedding, which the output layer shares."""
    from transformers import LlamaConfig, LlamaForCausalLM

    changes = {"num_hidden_layers": len(layers), "vocab_size": len(rows), "bos_token_id": 0, "eos_token_id": 0}
    settings = whole.config.to_dict() | changes | {"pad_token_id": None}
    settings.pop("_name_or_path", None)
    config = LlamaConfig.from_dict(settings)
    pruned = LlamaForCausalLM(config)
    weights = whole.state_dict()
    state = {}
    for name in pruned.state_dict():
        start, is_layer, rest = name.partition(".layers.")
        number, _, part = rest.partition(".")
        source = f"{start}.layers.{layers[int(number)]}.{part}" if is_layer else name
        is_embedding = name in ("model.embed_tokens.weight", "lm_head.weight")
        state[name] = weights[source][list(rows)] if is_embedding else weights[source]
    pruned.load_state_dict(state)
    return pruned


def _merges(bpe: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges: Iterable[Any] = bpe["merges"]
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


if __name__ == "__main__":
    main()
