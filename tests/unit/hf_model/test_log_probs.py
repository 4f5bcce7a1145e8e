"""Log-probabilities of responses, against the logits themselves."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import save_chat_model
from scripted import enliven
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
)

from convmodel import Conversation, ConversationModel
from convmodel.errors import ContextTooLongError, ConversationError, LogitsError
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import label_log_probs, log_probabilities, measure_targets, score_responses
from convmodel.hf_model.quantization import quantize_weights
from convmodel.layout.sequence import IGNORED

CONTEXT = Conversation(["Hello", "How are you"])
RESPONSES = ["Good thank you", "Fine"]


@pytest.fixture(scope="module")
def model(model_folder: str) -> ConversationModel:
    return ConversationModel.from_pretrained(model_folder, device="cpu")


@pytest.mark.parametrize("size", [30, 49152])
def test_log_probabilities_are_exact_for_likely_and_unlikely_tokens(size: int) -> None:
    """On a CPU, `logsumexp` is off by twice the bound or more, and `log_softmax` by four times, for 49,152 tokens."""
    random = torch.Generator().manual_seed(0)
    logits = 150 + 3 * torch.randn(64, size, generator=random)
    likely = logits.argmax(1)
    logits[range(64), likely] += 12
    for labels in (likely, torch.randint(size, (64,), generator=random)):
        exact = logits.double().log_softmax(1)[range(64), labels]
        assert (label_log_probs(logits, labels) - exact).mean().abs() < 4e-7


def test_a_score_is_the_sum_over_the_response_and_its_separator(model: ConversationModel) -> None:
    scores = score_responses(model.hf_model, model.tokenizer, CONTEXT, RESPONSES)
    assert scores == pytest.approx(model.score(CONTEXT, RESPONSES))

    for response, score in zip(RESPONSES, scores, strict=True):
        prompt = model.tokenizer.prompt(CONTEXT)
        reply = [*model.tokenizer.encode(response), model.tokenizer.sep_token_id]
        ids = torch.tensor([prompt.input_ids + reply])
        types = torch.tensor([prompt.types + [prompt.types[-1]] * (len(reply) - 1) + [1 - prompt.types[-1]]])
        with torch.inference_mode():
            log_probs = model.hf_model(input_ids=ids, token_type_ids=types).logits[0].double().log_softmax(-1)
        first = len(prompt.input_ids)
        assert score == pytest.approx(
            sum(log_probs[first + i - 1, index].item() for i, index in enumerate(reply)), 1e-5
        )


def test_the_split_head_gives_the_same_scores(model: ConversationModel) -> None:
    head = Head.of(model.hf_model)
    assert head is not None
    whole = score_responses(model.hf_model, model.tokenizer, CONTEXT, RESPONSES)
    assert score_responses(model.hf_model, model.tokenizer, CONTEXT, RESPONSES, head=head) == pytest.approx(whole)


def test_a_measure_may_return_several_values(model: ConversationModel) -> None:
    windows = model.tokenizer.windows(CONTEXT, max_length=64)
    values, labels = measure_targets(
        model.hf_model, model.tokenizer, windows, lambda logits, labels: torch.stack([logits.amax(-1), labels * 1.0], 1)
    )
    assert values.shape == (*labels.shape, 2)
    assert torch.equal(values[..., 1], labels.clamp(min=0).double())


def _too_large(model: ConversationModel, dtype: torch.dtype) -> ConversationModel:
    """Makes the logits larger than float16 can hold."""
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight.fill_(6e4)
        model.hf_model.transformer.wte.weight.mul_(100)
    model.hf_model.to(dtype)
    return model


def test_logits_that_float16_cannot_hold_are_an_error_with_the_fix(unigram_folder: Path) -> None:
    model = _too_large(ConversationModel.from_pretrained(unigram_folder, device="cpu"), torch.float16)
    fix = 'float16 overflows: load the model with dtype="float32" or "bfloat16"'

    with pytest.raises(LogitsError, match=f"^the model's logits are not numbers in conversation 1; {fix}"):
        model.evaluate([CONTEXT])
    with pytest.raises(LogitsError, match=f"^the model's logits are not numbers; {fix}"):
        model.score(CONTEXT, RESPONSES)
    model.hf_model.bfloat16()
    assert math.isfinite(model.evaluate([CONTEXT]).loss)


def test_weights_that_are_not_numbers_are_an_error_or_measured_if_allowed(unigram_folder: Path) -> None:
    model = ConversationModel.from_pretrained(unigram_folder, device="cpu")
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight[0] = math.nan
    windows = model.tokenizer.windows(CONTEXT, max_length=64)

    with pytest.raises(LogitsError, match="its weights are damaged or too large: use other weights"):
        measure_targets(model.hf_model, model.tokenizer, windows)
    values, labels = measure_targets(model.hf_model, model.tokenizer, windows, allow_nan=True)
    assert torch.equal(values.isnan(), labels != IGNORED)


def test_what_cannot_be_scored_is_refused(model: ConversationModel) -> None:
    with pytest.raises(ConversationError, match="a list of responses, not one string"):
        score_responses(model.hf_model, model.tokenizer, CONTEXT, "Fine")
    with pytest.raises(ConversationError, match="turn 3 is empty"):
        score_responses(model.hf_model, model.tokenizer, CONTEXT, [" "])
    with pytest.raises(ContextTooLongError, match=r"response 1 is .* tokens longer than 8 positions"):
        score_responses(model.hf_model, model.tokenizer, CONTEXT, ["long " * 20], max_length=8)


def test_a_response_that_would_continue_the_turn_before_it_is_refused(tmp_path: Path) -> None:
    save_chat_model(tmp_path)
    model = ConversationModel.from_pretrained(tmp_path, device="cpu", names="prefix")
    context = Conversation(["Hi", "Hello", "Me too"], ["Ann", "Bob", "Cem"])
    with pytest.raises(ConversationError, match=r"'Ann' is to respond to 'user', for which .* has no place"):
        model.tokenizer.prompt(context, reply_as="Ann")

    with pytest.raises(ConversationError, match=r"'Ann' is to respond to 'user', for which .* has no place"):
        model.score(context, ["Fine"], reply_as="Ann")

    assert len(model.score(context, ["Fine", "Good"], reply_as="Bob")) == 2


SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "gpt2": lambda size: GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "llama": lambda size: LlamaConfig(vocab_size=size, **GROUPED),
    "mistral": lambda size: MistralConfig(vocab_size=size, **GROUPED, sliding_window=5),
    "gemma2": lambda size: Gemma2Config(vocab_size=size, **GROUPED, sliding_window=5),
    "bloom": lambda size: BloomConfig(vocab_size=size, hidden_size=32, n_layer=2, n_head=4),
    "mamba": lambda size: MambaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2),
}


def tokens_read(hf_model: PreTrainedModel, counts: list[int]) -> None:
    """Records how many tokens each forward pass reads, padding included."""
    embedding = hf_model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, result: counts.append(inputs[0].numel()))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_context_that_responses_share_is_read_once(model: ConversationModel, name: str, split: bool) -> None:
    torch.manual_seed(0)
    tokenizer = model.tokenizer.with_layout(use_token_types=name == "gpt2")
    hf_model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name](len(tokenizer))).eval()
    enliven(hf_model, 6.0)
    context = Conversation(["Hello, how are you today?", "Fine, and you?"] * 2)
    windows = [
        window
        for response in ("Good, thank you", "Good", "No", "Well, it depends on how you look at it", *["Yes"] * 6)
        for window in tokenizer.windows(context.with_turn(response, "user"), max_length=128, loss_on="last")
    ]
    head = Head.of(hf_model) if split else None
    alone = [log_probabilities(hf_model, tokenizer, [window], head)[0] for window in windows]
    counts: list[int] = []
    tokens_read(hf_model, counts)
    assert log_probabilities(hf_model, tokenizer, windows, head) == pytest.approx(alone, abs=1e-3)
    assert len(set(alone)) == 5
    counts = counts[:: 2 if name == "gpt2" else 1]  # it embeds token types, too
    if name != "mamba":
        assert len(counts) == 3
        assert sum(counts) < sum(len(window.input_ids) for window in windows) / 2


def test_the_logits_of_a_packed_head_are_made_in_chunks(
    model: ConversationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    size = len(model.tokenizer)
    hf_model = enliven(AutoModelForCausalLM.from_config(CONFIGS["llama"](size)).eval(), 6.0)
    quantize_weights(hf_model, "int8")
    tokenizer = model.tokenizer.with_layout(use_token_types=False)
    windows = tokenizer.windows(CONTEXT, max_length=64)
    whole, _ = measure_targets(hf_model, tokenizer, windows)
    monkeypatch.setattr("convmodel.hf_model.lm_head.LOGITS_AT_ONCE", 2 * size)
    head, sizes = Head.of(hf_model), []
    assert head is not None

    def measure(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(logits))
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    found, _ = measure_targets(hf_model, tokenizer, windows, measure, head=head)
    assert max(sizes) == 2
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
