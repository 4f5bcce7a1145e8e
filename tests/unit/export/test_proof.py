"""The proof finds what is wrong with a file."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_models import make_model

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, ExportError
from convmodel.export.gguf_file import GgufModel, gguf_model, write_gguf
from convmodel.export.gguf_tensors import Tensor
from convmodel.export.llama_cpp import running
from convmodel.export.options import UNQUANTIZED
from convmodel.export.origin import Origin
from convmodel.export.proof import TIES, Subject, _tolerance, prove, windows_to_measure
from convmodel.export.proof_result import Proof

pytestmark = pytest.mark.loopback

CONVERSATIONS = [Conversation(["Hello there", "How are you?", "Fine, thanks."])]


@pytest.fixture(scope="module")
def loaded() -> ConversationModel:
    return make_model("llama")


@pytest.fixture
def model(loaded: ConversationModel) -> GgufModel:
    return gguf_model(loaded.hf_model, loaded.tokenizer)


def proof_of(loaded: ConversationModel, model: GgufModel, path: Path, kind: str = "f32", **options: Any) -> Proof:
    write_gguf(model, path, kind, Origin("x"))
    with running(path, 1) as llama:
        windows = windows_to_measure(loaded.tokenizer, model, CONVERSATIONS, kind)
        return prove(Subject(loaded.hf_model, loaded.tokenizer, model, llama), kind, windows, **options)


def test_a_right_file_is_equal_in_everything(loaded: ConversationModel, model: GgufModel, tmp_path: Path) -> None:
    proof = proof_of(loaded, model, tmp_path / "x.gguf")
    assert (proof.prompts, proof.control_texts, proof.stops, proof.ollama_prompts) == (15, 3, 1, 0)
    assert proof.tokens > 250
    assert proof.perplexity is not None
    assert proof.perplexity.file == pytest.approx(proof.perplexity.model, rel=1e-3)


def test_quantized_weights_are_measured_and_not_compared(
    loaded: ConversationModel, model: GgufModel, tmp_path: Path
) -> None:
    proof = proof_of(loaded, model, tmp_path / "x.gguf", "q8_0")
    assert (proof.tokens, proof.ties) == (0, 0)
    assert proof.perplexity is not None
    assert 0.5 < proof.perplexity.file / proof.perplexity.model < 2.0


def test_wrong_weights_are_found_by_the_tokens(loaded: ConversationModel, model: GgufModel, tmp_path: Path) -> None:
    """Rows in transformers' order instead of llama.cpp's."""
    query = loaded.hf_model.model.layers[0].self_attn.q_proj
    wrong = Tensor("blk.0.attn_q.weight", tuple(query.weight.shape), lambda: query.weight, is_matrix=True)
    tensors = [wrong if tensor.name == wrong.name else tensor for tensor in model.tensors]
    with pytest.raises(ExportError, match=r"generates another token at position \d+: .* nats less likely, after"):
        proof_of(loaded, replace(model, tensors=tensors), tmp_path / "x.gguf")


def test_data_without_supervised_turns_is_an_error(loaded: ConversationModel, model: GgufModel) -> None:
    silent = Conversation(["Hello", "Hi"], weights=[0, 0])
    with pytest.raises(ConfigError, match="no turn of the data is supervised"):
        windows_to_measure(loaded.tokenizer, model, [silent], "q8_0")


def test_no_more_data_is_read_than_is_measured(loaded: ConversationModel, model: GgufModel) -> None:
    endless = itertools.repeat(CONVERSATIONS[0])
    windows = windows_to_measure(loaded.tokenizer, model, endless, "f32")
    assert 100 <= sum(window.supervised_tokens for window in windows) < 200


@pytest.mark.slow
def test_a_wrong_window_is_found_by_a_long_prompt(tmp_path: Path) -> None:
    """Of 300 positions in the model, and 250 in the file."""
    loaded = make_model("gemma3", sliding_window=300)
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    layers = tuple(replace(layer, window=layer.window and 250) for layer in model.shape.decoder.layers)
    shape = replace(model.shape, decoder=replace(model.shape.decoder, layers=layers))
    with pytest.raises(ExportError, match=r"generates another token at position 4\d\d"):
        proof_of(loaded, replace(model, shape=shape), tmp_path / "x.gguf")


def test_prompts_that_fill_the_context_are_compared_without_tokens(tmp_path: Path) -> None:
    short = make_model("gpt2", max_position_embeddings=48, n_positions=48)
    proof = proof_of(short, gguf_model(short.hf_model, short.tokenizer), tmp_path / "x.gguf")
    assert 0 < proof.tokens < 200


def test_wrong_quantized_weights_are_found_by_the_perplexity(
    loaded: ConversationModel, model: GgufModel, tmp_path: Path
) -> None:
    head = loaded.hf_model.lm_head.weight
    wrong = Tensor("output.weight", tuple(head.shape), lambda: -2 * head, is_matrix=True, is_table=True)
    tensors = [wrong if tensor.name == wrong.name else tensor for tensor in model.tensors]
    with pytest.raises(ExportError, match="its weights are wrong"):
        proof_of(loaded, replace(model, tensors=tensors), tmp_path / "x.gguf", "q8_0")


def test_a_wrong_template_is_found_by_the_first_id_that_differs(
    loaded: ConversationModel, model: GgufModel, tmp_path: Path
) -> None:
    responses = {role: text.replace("assistant\n", "assistant") for role, text in model.templates.responses.items()}
    templates = replace(model.templates, responses=responses)
    with pytest.raises(ExportError, match=r"in llama\.cpp from position \d+ on: .* 'Ċ' in the model, nothing"):
        proof_of(loaded, replace(model, templates=templates), tmp_path / "x.gguf")


def test_control_text_that_becomes_a_control_token_is_found(
    loaded: ConversationModel, model: GgufModel, tmp_path: Path
) -> None:
    """As in files whose tokens have the names that people type."""
    plain = loaded.tokenizer.hf_tokenizer.convert_ids_to_tokens
    tokens = [plain(i) if i in model.vocabulary.names else token for i, token in enumerate(model.vocabulary.tokens)]
    names = {index: plain(index) for index in model.vocabulary.names}
    vocabulary = replace(model.vocabulary, tokens=tuple(tokens), names=names)

    suffix = next(iter(model.vocabulary.names.values())).rpartition("-")[2]
    parts = {name: _without(getattr(model.templates, name), f"-{suffix}") for name in ("openings", "responses", "ends")}
    wrong = replace(model, vocabulary=vocabulary, templates=replace(model.templates, **parts))
    with pytest.raises(ExportError, match="the prompt has other token ids"):
        proof_of(loaded, wrong, tmp_path / "x.gguf")


def _without(texts: Any, suffix: str) -> Any:
    if isinstance(texts, str):
        return texts.replace(suffix, "")
    return {role: _without(text, suffix) for role, text in texts.items()}


def test_a_missing_end_is_found(loaded: ConversationModel, model: GgufModel, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(replace(model, stop_ids=[5]), path, "f32", Origin("x"))
    with running(path, 1) as llama, pytest.raises(ExportError, match=r"does not end a response at \d+ '<\|im_end\|>'"):
        prove(Subject(loaded.hf_model, loaded.tokenizer, model, llama), "q8_0")


def test_a_wrong_template_of_ollama_is_found(loaded: ConversationModel, model: GgufModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the prompt by Ollama's template has other token ids"):
        proof_of(loaded, model, tmp_path / "x.gguf", render_ollama=lambda messages: messages[0]["content"])


def test_every_unquantized_type_has_a_limit_for_ties() -> None:
    assert set(TIES) == set(UNQUANTIZED)


def test_ties_are_wider_where_llama_cpp_rounds() -> None:
    """It looks the activation function of GPT-2 and Gemma up in a table of float16."""
    models = {
        name: gguf_model(made.hf_model, made.tokenizer) for name in ("llama", "gpt2") for made in [make_model(name)]
    }
    assert [_tolerance(models["llama"], kind) for kind in ("f32", "f16", "bf16")] == [1e-4, 0.02, 0.15]
    assert [_tolerance(models["gpt2"], kind) for kind in ("f32", "f16", "bf16")] == [0.02, 0.02, 0.15]
