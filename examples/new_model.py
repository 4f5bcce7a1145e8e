"""Makes an untrained GPT-2: python new_model.py TRAIN.jsonl FOLDER [VOCABULARY [WIDTH [LAYERS]]]."""

import sys

from transformers import GPT2Config

from convmodel import ConversationModel
from convmodel.data.reading import read_conversations
from convmodel.vocabulary import train_vocabulary


def main(train: str, folder: str, vocabulary: int = 2048, width: int = 192, layers: int = 4) -> None:
    turns = [turn for conversation in read_conversations(train) for turn in conversation.turns]
    tokenizer = train_vocabulary(turns, vocabulary)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"n_positions": 256, "n_embd": width, "n_layer": layers, "n_head": width // 64}
    model = ConversationModel.from_config(GPT2Config(vocab_size=len(tokenizer), **shape, **ends), tokenizer)
    model.save_pretrained(folder)
    print(f"{model.hf_model.num_parameters() / 1e6:.1f} M parameters, {len(tokenizer):,} pieces of words in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
