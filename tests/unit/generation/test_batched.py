"""Many contexts at once: each response is what it is alone, in the order of the contexts, whatever goes wrong."""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scripted import enliven

from convmodel import ConversationModel
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError, GenerationError, SaveError
from convmodel.generation import batched, responses_file
from convmodel.generation.options import read_options
from convmodel.generation.responses_file import ResponsesSummary, write_responses

draw = random.Random(0)
CONTEXTS = [
    [f"turn {number} says {'so ' * draw.randrange(20)}" for number in range(draw.choice([1, 2, 5]))] for _ in range(11)
]


@pytest.fixture(scope="module")
def model(gpt2_folder: Path) -> ConversationModel:
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    enliven(model.hf_model, 10.0)
    return model


@pytest.fixture(autouse=True)
def _few_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "CONTEXTS_AT_ONCE", 4)
    monkeypatch.setattr(responses_file, "CONTEXTS_AT_ONCE", 4)


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    """A file of contexts, the third line of which is no JSON."""
    lines = [json.dumps({"id": f"talk {n}", "turns": context}) for n, context in enumerate(CONTEXTS)]
    lines.insert(2, "{")
    path = tmp_path / "contexts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def write(model: ConversationModel, contexts: Path, tmp_path: Path) -> Callable[..., ResponsesSummary]:
    def write(
        *, overwrite: bool = False, source: Any = contexts, path: Path = tmp_path / "said.jsonl", **options: Any
    ) -> ResponsesSummary:
        checked = read_options(model.hf_model, model.tokenizer, {"max_new_tokens": 6} | options)
        return write_responses(
            model.engine, model.tokenizer, ConversationReader(source), path, checked, overwrite=overwrite
        )

    return write


# In Python.


@pytest.mark.parametrize(
    "contexts", [None, 5, "Hello", Path("talks.jsonl"), {"turns": ["Hi"]}, pd.DataFrame({"turns": [["Hi"]]})], ids=str
)
def test_what_is_no_list_of_contexts_is_refused(model: ConversationModel, contexts: Any) -> None:
    kind = type(contexts).__name__
    with pytest.raises(ConversationError, match=f"contexts are a list of contexts, not a {kind}: give the conver"):
        model.generate_batch(contexts)


def test_contexts_may_be_a_series_or_a_reader(model: ConversationModel) -> None:
    expected = model.generate_batch([["Hi"], ["Hello"]], max_new_tokens=2)
    for contexts in (
        pd.Series([["Hi"], ["Hello"]]),
        np.array([["Hi"], ["Hello"]]),
        ConversationReader([["Hi"], ["Hello"]]),
    ):
        assert model.generate_batch(contexts, max_new_tokens=2) == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "seed": 5},
        {"do_sample": True, "seed": 5, "num_return_sequences": 3},
        {"stop_strings": ["e"]},
        {"num_beams": 2},
    ],
    ids=lambda options: " ".join(options) or "greedy",
)
def test_batched_equals_one_by_one(model: ConversationModel, options: dict[str, Any]) -> None:
    outputs = model.generate_batch(CONTEXTS, max_new_tokens=12, **options)

    for number, (context, output) in enumerate(zip(CONTEXTS, outputs, strict=True)):
        own = options | ({"seed": 5 + number * options.get("num_return_sequences", 1)} if "seed" in options else {})
        assert output == model.generate(context, max_new_tokens=12, **own)
    assert len({response for output in outputs for response in output.responses}) > 5


def test_a_context_that_cannot_be_is_raised_or_stands_in_its_place(model: ConversationModel) -> None:
    contexts = [CONTEXTS[0], ["Hello", " "], ["word " * 1000], CONTEXTS[1]]

    with pytest.raises(ConversationError, match="turn 2"):
        model.generate_batch(contexts, max_new_tokens=4)
    outputs = model.generate_batch(contexts, max_new_tokens=4, return_errors=True)

    assert [type(output) for output in outputs[1:3]] == [ConversationError, ContextTooLongError]
    assert [outputs[0], outputs[3]] == model.generate_batch(CONTEXTS[:2], max_new_tokens=4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["engine", "transformers"])
def test_a_failure_at_one_leaves_the_others(model: ConversationModel, options: dict[str, Any]) -> None:
    def length(context: list[str]) -> int:
        return len(model.tokenizer(context)["input_ids"])

    longest = max(CONTEXTS, key=length)
    contexts = [*[context for context in CONTEXTS if length(context) < length(longest)][:4], longest]

    def fail(ids: Any, scores: Any) -> Any:
        if ids.shape[1] == length(longest):
            raise RuntimeError("no memory")
        return scores

    outputs = model.generate_batch(contexts, max_new_tokens=1, return_errors=True, logits_processor=[fail], **options)

    assert isinstance(outputs[4], GenerationError)
    assert "no memory" in str(outputs[4])
    assert all(not isinstance(output, Exception) for output in outputs[:4])


def test_no_context_is_no_response(model: ConversationModel) -> None:
    assert model.generate_batch([]) == []


def test_options_are_refused_before_anything_is_made(model: ConversationModel) -> None:
    with pytest.raises(ConfigError, match="num_beam"):
        model.generate_batch(CONTEXTS, num_beem=2)


# In a file.


def test_a_line_for_each_context_in_their_order(
    model: ConversationModel, write: Callable[..., ResponsesSummary], tmp_path: Path
) -> None:
    done = write()

    records = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert (done.contexts, done.failed, done.kept) == (12, 1, 0)
    assert done.first_error == records[2]["error"]
    assert "contexts.jsonl:3:" in records[2]["error"]
    del records[2]
    for number, (context, record) in enumerate(zip(CONTEXTS, records, strict=True)):
        output = model.generate(context, max_new_tokens=6)
        assert record == {
            "id": f"talk {number}",
            "responses": output.responses,
            "finish_reasons": output.finish_reasons,
            "response_tokens": output.response_tokens,
            "prompt_tokens": output.prompt_tokens,
            "left_out": 0,
            "cut": 0,
        }
    assert done.response_tokens == sum(sum(record["response_tokens"]) for record in records)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contexts.jsonl", "said.jsonl"]


@pytest.mark.parametrize("stop_after", range(13))
@pytest.mark.parametrize("half", ["", '{"id": "tal'], ids=["whole", "half"])
def test_stopped_anywhere_it_goes_on_to_the_same_file(
    write: Callable[..., ResponsesSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, half: str
) -> None:
    said = tmp_path / "said.jsonl"
    write(path=tmp_path / "undisturbed.jsonl", do_sample=True, seed=1)
    expected = (tmp_path / "undisturbed.jsonl").read_bytes()
    kept = b"".join(expected.splitlines(keepends=True)[:stop_after]) + half.encode()
    respond = batched.respond_to_many

    def stopped(*args: Any, **options: Any) -> Any:
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(responses_file, "respond_to_many", stopped)
        with pytest.raises(KeyboardInterrupt):
            write(do_sample=True, seed=1)
    said.write_bytes(kept)
    assert responses_file.respond_to_many is respond

    done = write(do_sample=True, seed=1)

    assert said.read_bytes() == expected
    assert done.kept == stop_after // 4 * 4
    assert (done.contexts, done.failed) == (12, 1)


def test_what_is_there_is_not_replaced_unasked(write: Callable[..., ResponsesSummary], tmp_path: Path) -> None:
    said = tmp_path / "said.jsonl"
    said.write_text("mine\n")

    with pytest.raises(SaveError, match="--overwrite"):
        write()
    assert said.read_text() == "mine\n"

    write(overwrite=True)
    assert len(said.read_text().splitlines()) == 12


def test_the_beginning_of_something_else_is_refused_and_the_difference_told(
    write: Callable[..., ResponsesSummary], contexts: Path, tmp_path: Path
) -> None:
    write(max_new_tokens=5)
    said, note = tmp_path / "said.jsonl", tmp_path / "said.jsonl.unfinished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses_file, "respond_to_many", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(overwrite=True)
    said.write_text('{"responses": []}\n')
    before = note.read_bytes()

    with pytest.raises(ConfigError, match="max_new_tokens: 6 there, 5 here"):
        write(max_new_tokens=5)
    with pytest.raises(ConfigError, match="grammar: "):
        write(regex="(yes|no)")
    contexts.write_text('["Hi"]\n')
    with pytest.raises(ConfigError, match="contexts: "):
        write()
    assert (note.read_bytes(), said.read_text()) == (before, '{"responses": []}\n')


def test_two_processes_do_not_write_one_file(write: Callable[..., ResponsesSummary], tmp_path: Path) -> None:
    with (tmp_path / "said.jsonl").open("wb") as file:
        assert responses_file.lock(file.fileno())
        with pytest.raises(SaveError, match="another process"):
            write()


def test_a_full_disk_is_said_and_what_is_finished_stays(
    write: Callable[..., ResponsesSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path=tmp_path / "undisturbed.jsonl")
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) == 4:  # the first two are of the note beside the file
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SaveError, match=r"No space left on device.*resumes"):
            write()
    assert write().kept >= 4
    assert (tmp_path / "said.jsonl").read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="names open files by /proc")
def test_the_note_beside_the_file_is_on_the_disk_before_the_first_response(
    write: Callable[..., ResponsesSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, synced = os.fsync, []

    def note_sync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", note_sync)
    write()

    note, *others = synced
    assert note.startswith(".said.jsonl.unfinished.")
    assert others == [tmp_path.name, *["said.jsonl"] * 4]


def test_the_file_of_contexts_is_never_replaced(write: Callable[..., ResponsesSummary], contexts: Path) -> None:
    before = contexts.read_bytes()

    with pytest.raises(SaveError, match="holds the contexts"):
        write(path=contexts, overwrite=True)
    assert contexts.read_bytes() == before


def test_nothing_to_respond_to_is_an_error(write: Callable[..., ResponsesSummary], tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ConversationError, match="no conversation"):
        write(source=tmp_path / "empty.jsonl")
    with pytest.raises(ConversationError, match="nowhere"):
        write(source=tmp_path / "nowhere.jsonl")
    assert not (tmp_path / "said.jsonl").exists()
    assert not (tmp_path / "said.jsonl.unfinished").exists()
