"""What is reported of a proof."""

import pytest

from convmodel.export.proof_result import Perplexity, Proof


def test_lines_name_every_comparison() -> None:
    proof = Proof("f16", 12, 900, 3, 10, 300, 1, 0.0042, 2, Perplexity(500, 20.0, 20.1, 0.003), ("A note.",))
    assert proof.lines() == [
        "prompts: 12 conversations of up to 900 tokens have the same ids in llama.cpp, 3 of them with control tokens "
        "spelled out",
        "Ollama's template: 10 conversations have the same token ids",
        "generation: 299 of 300 tokens are the model's own choice, the others are ties, at most 0.0042 nats behind",
        "ends: a response stops at each of the 2 tokens that end one",
        "perplexity of 500 tokens: 20.000 before, 20.100 in llama.cpp (+0.50% ± 0.30%)",
        "A note.",
    ]
    assert proof.to_dict()["perplexity"]["change"] == pytest.approx(0.005)


def test_the_error_is_that_of_the_difference() -> None:
    """Not that of each perplexity, which depends on the tokens far more than on the file."""
    assert Perplexity.of([1.0, 9.0], [1.1, 9.1]).error == pytest.approx(0.0)
    assert Perplexity.of([1.0, 1.0], [0.9, 1.1]).error == pytest.approx(0.1)
    assert Perplexity.of([1.0], [1.1]).change == pytest.approx(0.10517, abs=1e-5)
