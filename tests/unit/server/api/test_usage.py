"""Log-probabilities of tokens in OpenAI's two forms."""

from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.server.api.usage import chat_logprobs, completion_logprobs
from convmodel.server.serving.job import Piece


def test_chat_completions_have_an_object_per_token(gpt2_tokenizer: ConversationTokenizer) -> None:
    ids = tuple(gpt2_tokenizer.encode("Hi😀"))
    piece = Piece(0, "Hi😀", ids, (-0.5,) * len(ids), tuple([(ids[0], -0.25)] for _ in ids))
    content = chat_logprobs(gpt2_tokenizer, [piece])["content"]
    assert content[0] == {
        "token": "Hi",
        "logprob": -0.5,
        "bytes": [72, 105],
        "top_logprobs": [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105]}],
    }
    assert content[1]["token"].startswith("bytes:\\xf0\\x9f")  # a part of a character
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "Hi😀"


def test_completions_have_lists_with_offsets(gpt2_tokenizer: ConversationTokenizer) -> None:
    first, second = gpt2_tokenizer.encode(" a time")
    pieces = [Piece(0, " a", (first,), (-1.0,)), Piece(0, " time", (second,), (-2.0,), ([(first, -1.5)],))]
    assert completion_logprobs(gpt2_tokenizer, pieces, 9) == {
        "tokens": [" a", " time"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{}, {" a": -1.5}],
        "text_offset": [9, 11],
    }
