"""A model with a chat template of its own: the equalities hold in its layout, and what is saved is still its own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from chat_templates import save_chat_model
from scripted import enliven
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.errors import ModelLoadError

HALF = "\N{REPLACEMENT CHARACTER}"
"""Of a last character that the limit of tokens cut."""

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]

TURNS = ["Hello, how are you?", "Fine", "Did you sleep well?", "Not really", "Is it still raining outside?"]
TALKS = [TURNS[:4], ["Can I ask you something?", "Of course"], ["Good morning!", "Yes", "Two eggs", "No"]] * 2


@pytest.fixture(scope="module", params=["chatml", "rewriting", "gemma"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chat") / request.param
    save_chat_model(place, request.param)
    model = AutoModelForCausalLM.from_pretrained(place)
    enliven(model)
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(folder, device="cpu")


def greedy(model: ConversationModel, context: list[str]) -> str:
    return model.generate(context, do_sample=False, max_new_tokens=12).responses[0]


def test_greedy_is_that_of_transformers(model: ConversationModel, folder: Path) -> None:
    tokenizer, plain = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    switches = dict(model.tokenizer.layout.template.switches) if model.tokenizer.layout.template else {}
    for count in (1, 3, 5):
        messages = [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(TURNS[:count])]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, **switches
        )
        output = plain.generate(
            **inputs, do_sample=False, max_new_tokens=12, eos_token_id=model.tokenizer.stop_token_ids, pad_token_id=0
        )
        expected = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert greedy(model, TURNS[:count]).rstrip(HALF) == expected.rstrip(HALF)


def test_a_session_is_generate_on_its_turns_with_and_without_cache(model: ConversationModel) -> None:
    session = model.session(do_sample=False, max_new_tokens=12)
    for turn in TURNS[:3]:
        context = [*session.turns, turn]
        response = session.respond(turn)
        model.engine.caches.clear()
        assert model.generate(context, do_sample=False, max_new_tokens=12, min_new_tokens=1).responses[0] == response


def test_streamed_and_batched_are_generated(model: ConversationModel) -> None:
    contexts = [TURNS[:1], TURNS[:3], TURNS]
    alone = [greedy(model, context) for context in contexts]
    batch = model.generate_batch(contexts, do_sample=False, max_new_tokens=12)
    assert [result.responses[0] for result in batch] == alone
    streams = [model.stream(context, do_sample=False, max_new_tokens=12) for context in contexts]
    assert ["".join(chunk.text for chunk in stream) for stream in streams] == alone


def test_scores_are_the_loss_of_the_window(model: ConversationModel) -> None:
    result = model.evaluate([TURNS[:2]], loss_on="last")
    [score] = model.score(TURNS[:1], [TURNS[1]])
    assert -score / result.tokens == pytest.approx(result.loss, rel=1e-5)
    assert model.evaluate(TALKS, batch_size=1).loss == pytest.approx(model.evaluate(TALKS, batch_size=4).loss, rel=1e-6)


def test_packed_is_one_by_one(folder: Path) -> None:
    losses = []
    for packing in (True, False):
        model = ConversationModel.from_pretrained(folder, device="cpu")
        result = model.fit(TALKS, max_steps=3, batch_size=12, packing=packing, learning_rate=1e-3, loss_on="responses")
        losses.append((result.train_loss, model.evaluate(TALKS, loss_on="responses").loss))
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)


@pytest.mark.slow
def test_it_learns_to_respond_and_to_end(folder: Path) -> None:
    model = ConversationModel.from_pretrained(folder, device="cpu")
    model.fit([TURNS[:2]] * 4, max_steps=60, batch_size=4, learning_rate=1e-2, loss_on="responses")
    result = model.generate(TURNS[:1], do_sample=False, max_new_tokens=12)
    assert (result.responses, result.finish_reasons) == ([TURNS[1]], ["stop"])


def test_adapters_and_new_entries_keep_the_layout(folder: Path, tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained(folder, device="cpu")
    model.fit(TALKS, max_steps=2, batch_size=2, lora=True, learning_rate=1e-2)
    model.save_pretrained(tmp_path / "adapters")
    adapted = ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")
    assert adapted.tokenizer.layout == model.tokenizer.layout
    assert greedy(adapted, TURNS[:3]) == greedy(model, TURNS[:3])
    grown = ConversationModel.from_pretrained(folder, device="cpu")
    before = grown.tokenizer(["Hello"])["input_ids"]
    grown.grow_vocabulary(["neighbours breakfast neighbours breakfast"] * 3, 4)
    assert grown.tokenizer(["Hello"])["input_ids"] == before
    assert len(grown.tokenizer.encode("neighbours")) < len(model.tokenizer.encode("neighbours"))
    grown.save_pretrained(tmp_path / "grown")
    assert ConversationTokenizer.from_pretrained(tmp_path / "grown").layout == grown.tokenizer.layout


def test_int8_responds(folder: Path) -> None:
    model = ConversationModel.from_pretrained(folder, device="cpu", quantize="int8")
    assert isinstance(greedy(model, TURNS[:1]), str)
    assert model.tokenizer.layout.name == "template"


def test_what_is_saved_is_the_same_for_everybody(model: ConversationModel, folder: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    loaded = ConversationModel.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.tokenizer.layout == model.tokenizer.layout
    assert loaded.tokenizer(TURNS) == model.tokenizer(TURNS)
    assert greedy(loaded, TURNS) == greedy(model, TURNS)
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.chat_template == AutoTokenizer.from_pretrained(folder).chat_template
    ends = {saved.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        ids = json.loads((tmp_path / "saved" / name).read_text(encoding="utf-8"))["eos_token_id"]
        ends.add(ids[0] if isinstance(ids, list) else ids)
    assert ends == {model.tokenizer.end_token_id}
    content = json.loads((tmp_path / "saved/convmodel_config.json").read_text(encoding="utf-8"))
    assert (content["format"], content["separator_id"]) == (2, None)


def test_a_plain_pipeline_says_the_same(model: ConversationModel, folder: Path, tmp_path: Path) -> None:
    if "rewriting" in str(folder):
        pytest.skip("a pipeline passes no enable_thinking")
    model.save_pretrained(tmp_path / "saved")
    generate = pipeline("text-generation", model=str(tmp_path / "saved"), device="cpu")
    [result] = generate([{"role": "user", "content": TURNS[0]}], do_sample=False, max_new_tokens=12)
    assert result["generated_text"][-1]["content"] == greedy(model, TURNS[:1])


def test_another_template_in_a_saved_folder_is_refused(model: ConversationModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    template = tmp_path / "saved/chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "{# new #}", encoding="utf-8")
    with pytest.raises(ModelLoadError, match="was measured with another chat template"):
        ConversationModel.from_pretrained(tmp_path / "saved")


def test_the_separator_layout_is_still_there(folder: Path) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(folder, layout="separator")
    assert tokenizer.layout.name == "separator"
    assert tokenizer(["Hi"])["input_ids"].count(tokenizer.sep_token_id or -1) == 2


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.resize_token_embeddings(400)
    model.save_pretrained(other)
    with pytest.raises(ModelLoadError, match="the tokenizer belongs to another model"):
        ConversationModel.from_pretrained(other)


def test_the_doctor_shows_the_layout_of_a_model_alone(folder: Path, run: Run, capfd: Capture) -> None:
    assert run("doctor", str(folder)) == 0
    shown = capfd.readouterr().out
    assert "token layout" in shown
    assert "measured from the model's chat template" in shown
    assert "<|im_start|>" in shown or "<start_of_turn>" in shown
    assert run("doctor", str(folder), "--json") == 0
    assert json.loads(capfd.readouterr().out)["windows"][0][0]["is_marker"]


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_fit_says_which_layout_and_counts_what_is_left_out(
    folder: Path, run: Run, capfd: Capture, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "reasoning_content": "Hm"}]
    rows = [{"messages": turns}, {"messages": [{"role": "assistant", "content": "Welcome"}, *turns]}]
    train = write(tmp_path / "turns.jsonl", *rows)
    assert run("fit", "--model", str(folder), train, "-o", str(tmp_path / "out"), "--max-steps", "1") == 0
    shown = " ".join(capfd.readouterr().err.split())
    assert "token layout: template (measured from the model's chat template" in shown
    assert "reasoning_content of 2 messages was left out" in caplog.text
    assert ("1 first turns were left out" in caplog.text) == ("gemma" in str(folder))


def test_three_speakers_need_their_names_before_the_text(
    folder: Path, run: Run, capfd: Capture, tmp_path: Path
) -> None:
    train = write(tmp_path / "three.jsonl", {"messages": [{"role": n, "content": "Hi"} for n in ("Ann", "Cem", "Bob")]})
    arguments = ["fit", "--model", str(folder), train, "--max-steps", "1", "--loss-on", "Bob"]
    assert run(*arguments, "-o", str(tmp_path / "first")) == 1
    assert "names='prefix'" in " ".join(capfd.readouterr().err.split())
    assert run(*arguments, "-o", str(tmp_path / "second"), "--names", "prefix") == 0
