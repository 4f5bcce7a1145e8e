"""The guarantees on architectures of many kinds: each holds, or is refused with an error of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import save_tiny

from convmodel import ConversationModel
from convmodel.errors import ConfigError

TALKS = [
    ["Hello there", "Hi, how are you?", "Good, thanks!"],
    ["Did you eat?", "Yes, soup."],
    ["It rains again", "It always does here, take a coat", "I have none", "Then run"],
]
CONTEXTS = [["Hi"], TALKS[0], TALKS[2]]
LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 4.0, 16.0, 32.0],
        "original_max_position_embeddings": 48,
    },
    "original_max_position_embeddings": 48,
}

Load = Callable[..., ConversationModel]


@pytest.fixture
def load(make_once: Callable[..., Path]) -> Load:
    def load(name: str, settings: dict[str, Any] | None = None, **options: Any) -> ConversationModel:
        folder = make_once(
            f"tiny-{name}{'-changed' if settings else ''}", lambda folder: save_tiny(folder, name, **(settings or {}))
        )
        return ConversationModel.from_pretrained(folder, device="cpu", **options)

    return load


def fit(model: ConversationModel, **options: Any) -> float:
    settings: dict[str, Any] = {"max_steps": 1, "precision": "fp32", "learning_rate": 1e-3, "batch_size": 3}
    return model.fit(TALKS, **settings | options).train_loss


def by_hand(model: ConversationModel) -> float:
    """The loss, window by window, from the whole logits."""
    nats, count = 0.0, 0
    for window in (window for talk in TALKS for window in model.tokenizer.windows(talk, max_length=200)):
        inputs = {"input_ids": torch.tensor([window.input_ids])}
        if model.tokenizer.layout.use_token_types:
            inputs["token_type_ids"] = torch.tensor([window.types])
        with torch.no_grad():
            log_probs = model.hf_model(**inputs, use_cache=False).logits[0].double().log_softmax(-1)
        for place, label in enumerate(window.labels):
            if label != -100:
                nats -= log_probs[place - 1, label].item()
                count += 1
    return nats / count


def refused_or(call: Callable[[], float], name: str) -> float | None:
    """Returns the result, or None for an error that names the model or says what does not fit it."""
    try:
        return call()
    except ConfigError as error:
        if name not in str(error) and "does not fit this model" not in str(error):
            raise
        return None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["bart", "ctrl", "gemma2", "gpt2", "jamba", "llama4_text", "mamba", "phi", "phimoe", "qwen3_moe", "rwkv"]
)
def test_the_guarantees_hold_or_are_refused(load: Load, name: str, tmp_path: Path) -> None:
    model = load(name)
    expected = by_hand(model)
    together = [output.responses for output in model.generate_batch(CONTEXTS, max_new_tokens=8)]
    assert together == [model.generate(context, max_new_tokens=8).responses for context in CONTEXTS]
    streamed = "".join(chunk.text for chunk in model.stream(CONTEXTS[1], max_new_tokens=8))
    assert [streamed] == together[1]
    for size in (1, 3):
        assert model.evaluate(TALKS, batch_size=size).loss == pytest.approx(expected, rel=2e-5)

    assert fit(load(name)) == pytest.approx(expected, rel=5e-5)
    assert fit(load(name), batch_size=1, gradient_accumulation_steps=3) == pytest.approx(expected, rel=5e-5)
    assert refused_or(lambda: fit(load(name), packing=True), name) in (None, pytest.approx(expected, rel=5e-5))

    trained = load(name)
    loss = refused_or(lambda: fit(trained, lora=True, output_dir=str(tmp_path)), name)
    assert loss in (None, pytest.approx(expected, rel=5e-5))
    if loss is not None:
        loaded = ConversationModel.from_pretrained(tmp_path, device="cpu")
        assert loaded.evaluate(TALKS).loss == trained.evaluate(TALKS).loss
        loaded.merge_adapters()
        assert loaded.evaluate(TALKS).loss == pytest.approx(trained.evaluate(TALKS).loss, rel=1e-4)

    for dtype in ("float32", "bfloat16"):
        whole, packed = (load(name, dtype=dtype, quantize=quantize) for quantize in (None, "int8"))
        assert packed.evaluate(TALKS).loss == pytest.approx(whole.evaluate(TALKS).loss, rel=0.02)
        assert packed.generate(["Hi"], max_new_tokens=2).response_tokens


def test_the_padding_of_packed_rows_has_finite_gradients(load: Load) -> None:
    """Gemma 3n divides by the norm of each position, and the embedding of its padding token is all zeros."""
    model = load("gemma3n_text")
    assert fit(model, packing=True) == pytest.approx(by_hand(load("gemma3n_text")), rel=5e-5)


def test_a_batch_does_not_change_the_rotary_embedding_of_its_rows(load: Load) -> None:
    """Of "longrope": its angles depend on the longest row."""
    model = load("phi3", LONGROPE)
    talks = [*TALKS, [" ".join(talk)[:70] for talk in TALKS]]
    losses = [model.evaluate(talks, batch_size=size).loss for size in (1, 4)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    responses = ["no", "I am very well, thank you. " * 3]
    apart = [model.score(["Hello", "How is it?"], [response])[0] for response in responses]
    assert model.score(["Hello", "How is it?"], responses) == pytest.approx(apart, rel=1e-6)
    with pytest.raises(ConfigError, match=r"of this phi3 \(longrope\) changes .* more than 48: lower max_length to 48"):
        fit(model)
    assert fit(model, max_length=48) > 0
