"""`convmodel improve`: judgements in, a better model out, and nothing lost on the way."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convmodel import ConversationModel
from convmodel.cli import improve, improve_sources
from convmodel.cli.improve_sources import chosen_replay, typical_replay
from convmodel.cli.main import app
from convmodel.data.judgements.reader import JudgementReader
from convmodel.data.reading.reader import ConversationReader
from convmodel.hf_model.reward_model import reward_model_of
from convmodel.training import self_replay
from convmodel.training.improvement import SETTINGS, Improvement, Quality
from convmodel.training.objectives import preference_data
from fine_tuning import TALKS

Run = Callable[..., int]
JUDGED: list[dict[str, Any]] = [
    {"context": talk[:-1], "chosen": talk[-1], "kind": "thumb"} if number % 2 else
    {"context": talk[:-1], "chosen": talk[-1], "rejected": "I do not know.", "kind": "edit"}
    for number, talk in enumerate(talk for talk in TALKS if len(talk) > 1)
]  # fmt: skip
QUICK = ("--epochs", "1", "--learning-rate", "1e-3", "--max-regression", "100", "--seed", "1")


@pytest.fixture
def feedback(run: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of eight judgements beside the files of `run`."""
    monkeypatch.setenv("CONVMODEL_CACHE", "cache")
    Path("feedback.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in JUDGED), encoding="utf-8")
    return "feedback.jsonl"


def improved(run: Run, feedback: str, *more: str) -> int:
    return run("improve", "model", "-f", feedback, "--valid", "test.jsonl", "--replay", "train.jsonl", *QUICK, *more)


@pytest.mark.slow
def test_a_model_is_improved_and_what_was_done_is_written_down(
    run: Run, feedback: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert improved(run, feedback, "-o", "better", "--json") == 0
    shown = json.loads(capfd.readouterr().out.splitlines()[-1])

    record = json.loads(Path("better/improvement.json").read_text(encoding="utf-8"))
    assert shown == record | {"output_dir": "better"}
    assert (record["model"], record["objective"], record["kinds"]) == ("model", "kto", {"edit": 4, "thumb": 4})
    assert (record["used"], record["held_out"], record["guard"], record["steps"]) == (8, 0, "", 1)
    before = ConversationModel.from_pretrained("model").evaluate("test.jsonl").perplexity
    after = ConversationModel.from_pretrained("better").evaluate("test.jsonl").perplexity
    assert record["before"]["perplexity"] == pytest.approx(before, rel=1e-5)
    assert record["after"]["perplexity"] == pytest.approx(after, rel=1e-5)
    assert 0 <= record["after"]["ends"] <= 1
    assert record["before"]["responses"] == record["after"]["responses"] == 4  # contexts in test.jsonl
    assert run("compare", "model", "better", "--data", "better/held-out.jsonl", "-n", "1", "--max-new-tokens", "2") == 0


@pytest.mark.slow
def test_it_says_what_was_reached_and_what_to_type_next(
    run: Run, feedback: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert improved(run, feedback) == 0
    shown = " ".join(capfd.readouterr().err.split())

    assert "8 judgements (4 thumb, 4 edit): 4 pairs, 4 liked only" in caplog.text
    assert "8 judgements are few: 12 more judgements would help" in shown
    assert "Kept the model after step 1" in shown
    assert "compare model improved-model --data improved-model/held-out.jsonl --votes votes.jsonl" in shown


@pytest.mark.long
def test_a_run_that_would_ruin_the_model_leaves_it_as_it_was(
    run: Run, feedback: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # `model` does not know these conversations: rounding decides whether a huge step makes its perplexity any worse.
    training = ("--valid", "test.jsonl", "--max-steps", "20", "--learning-rate", "1e-2", "--output-dir", "trained")
    assert run("fit", "test.jsonl", "--model", "model", *training) == 0
    settings = ("--learning-rate", "3", "--max-regression", "0.01", "--epochs", "3")
    assert run("improve", "trained", "-f", feedback, "--valid", "test.jsonl", "--replay", "none", *settings) == 0
    shown = " ".join(capfd.readouterr().err.split())

    assert "The model is what it was: the validation perplexity rose from" in shown
    record = json.loads(Path("improved-model/improvement.json").read_text(encoding="utf-8"))
    assert record["before"] == record["after"]
    names = [Path(folder, "model.safetensors").read_bytes() for folder in ("trained", "improved-model")]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("before", "after", "remark"),
    [
        ((0.8, 5), (0.4, 5), "Fewer responses end by themselves: 2 of 5, 4 of 5 before."),
        ((0.8, 5), (0.8, 5), ""),
        ((0.75, 32), (0.6875, 32), ""),  # of so many, a fall that is more than chance stops the run
        ((None, 0), (None, 0), ""),
    ],
)
def test_counts_are_shown_and_a_fall_that_may_be_chance_is_explained(
    before: tuple[float | None, int],
    after: tuple[float | None, int],
    remark: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    qualities = [Quality(60.0, *before), Quality(50.0, *after)]
    improve._print(Improvement("old", "kto", {"thumb": 20}, 20, 0, qualities[0], qualities[1], 8, "", 3.0), "new")
    captured = capfd.readouterr()
    table, shown = captured.out.splitlines(), " ".join(captured.err.split())

    counts = [f"{quality.ended} of {quality.responses}" if quality.responses else "unknown" for quality in qualities]
    assert " ".join(table[-1].split()) == f"responses that end by themselves {' '.join(counts)}"
    assert remark in shown
    assert ("give more validation conversations (up to 32 are used)" in shown) == bool(remark)


@pytest.mark.long
def test_a_model_is_not_replaced_without_a_word(run: Run, feedback: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert improved(run, feedback) == 0
    assert improved(run, feedback) == 1
    assert "improved-model already holds a model: give another --output-dir" in " ".join(capfd.readouterr().err.split())
    assert improved(run, feedback, "--overwrite") == 0


@pytest.mark.slow
def test_judgements_that_a_killed_start_left_do_not_count_as_something_else(run: Run, feedback: str) -> None:
    Path("improved-model").mkdir()
    Path("improved-model/judgements.jsonl").write_text(json.dumps(JUDGED[0]) + "\n", encoding="utf-8")
    assert improved(run, feedback) == 0
    record = json.loads(Path("improved-model/improvement.json").read_text(encoding="utf-8"))

    assert record["used"] == 8


@pytest.mark.slow
def test_without_data_of_ones_own_the_samples_is_used(
    run: Run, feedback: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"train": Path("train.jsonl"), "valid": Path("test.jsonl"), "test": Path("test.jsonl")}
    for module in (improve, improve_sources):
        monkeypatch.setattr(module, "sample_file", files.__getitem__)
    assert run("improve", "model", "-f", feedback, *QUICK) == 0

    shown = " ".join(capfd.readouterr().err.split())
    assert "Validation: the sample's conversations" in shown
    assert "Nothing is replayed: --replay FILE" in shown  # what this model was trained on is not known


@pytest.mark.parametrize("flag", ["--feedback", "--valid", "--replay"])
def test_a_run_does_not_replace_what_it_is_to_read(
    run: Run, feedback: str, capfd: pytest.CaptureFixture[str], flag: str
) -> None:
    Path("better").mkdir()
    source = Path("better", "self-replay.jsonl")
    source.write_bytes(Path(feedback).read_bytes())
    assert run("improve", "model", "-f", feedback, flag, str(source), "-o", "better", "--overwrite", *QUICK) == 1

    assert "better/self-replay.jsonl would be replaced: give another --output-dir" in capfd.readouterr().err
    assert source.read_bytes() == Path(feedback).read_bytes()


def test_the_built_in_model_and_its_improvements_replay_themselves(tmp_path: Path) -> None:
    for name, model in (("one", "builtin:chitchat"), ("two", str(tmp_path / "one")), ("mine", "my-model")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "improvement.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    names = ("builtin:chitchat", *(str(tmp_path / each) for each in ("one", "two", "mine", "none")))

    assert [chosen_replay(name, None) for name in names] == ["self", "self", "self", "none", "none"]
    assert [typical_replay(name) is not None for name in names] == [True, True, True, False, False]
    assert chosen_replay("builtin:chitchat", "none") == "none"


@pytest.mark.long
def test_a_model_replays_conversations_with_itself(
    run: Run, feedback: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(self_replay, "CONVERSATIONS", 4)
    assert run("improve", "model", "-f", feedback, "--replay", "self", *QUICK) == 0

    assert "Nothing is replayed" not in capfd.readouterr().err
    replayed = [*ConversationReader("improved-model/self-replay.jsonl")]
    assert 0 < len(replayed) <= 4  # those whose first response did not end are left out
    assert {talk.turns[0] for talk in replayed} <= {line["context"][0] for line in JUDGED}


@pytest.mark.slow
def test_a_reward_model_judges_what_the_model_says_to_itself(
    run: Run, feedback: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """If it is better than chance; it also orders the new model's candidates."""
    monkeypatch.setattr(self_replay, "CONVERSATIONS", 8)
    words = [
        (f"{word} {number}", "I like it?" if number % 2 else "I see.") for number in range(12) for word in ("a", "b")
    ]
    lines = [{"context": [one], "chosen" if text.endswith("?") else "rejected": text} for one, text in words]
    Path(feedback).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert run("improve", "model", "-f", feedback, "--replay", "self", "--max-steps", "2", *QUICK[2:]) == 0

    shown = " ".join(capfd.readouterr().err.split())
    own = [*JudgementReader("improved-model/own-judgements.jsonl")]
    turns = [turn for talk in ConversationReader("improved-model/self-replay.jsonl") for turn in talk.turns[1:]]
    assert {one.chosen or one.rejected for one in own} <= {*turns}
    assert 2 * sum(one.rejected is None for one in own) == len(own) > 0  # as many of each
    assert f"of {len(own)} turns that the model said to itself; they are learned from, too" in shown
    assert f"on {len(own) + len(lines)} judgements" in shown
    record = json.loads(Path("improved-model/improvement.json").read_text(encoding="utf-8"))
    assert record["used"] == len(lines)
    assert record["reward_auc"] > 0.9
    assert "It orders candidates" in shown
    reward = reward_model_of(ConversationModel.from_pretrained("improved-model").hf_model)
    assert reward is not None
    assert reward.auc == record["reward_auc"]


@pytest.mark.slow
def test_a_reward_model_that_is_no_better_than_chance_is_not_used(
    run: Run, feedback: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(self_replay, "CONVERSATIONS", 4)
    lines = [{"context": [f"a {number}"], "chosen" if number % 2 else "rejected": "I see."} for number in range(8)]
    Path(feedback).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert run("improve", "model", "-f", feedback, "--replay", "self", *QUICK) == 0

    assert "No reward model: these judgements do not suffice" in " ".join(capfd.readouterr().err.split())
    assert not Path("improved-model/own-judgements.jsonl").exists()
    assert not Path("improved-model/reward_model.json").exists()
    assert json.loads(Path("improved-model/improvement.json").read_text(encoding="utf-8"))["reward_auc"] is None


@pytest.mark.long
def test_a_run_that_was_ended_at_its_last_files_begins_again(run: Run, feedback: str) -> None:
    assert improved(run, feedback) == 0
    Path("improved-model/improvement.json").unlink()
    assert improved(run, feedback) == 0
    assert Path("improved-model/improvement.json").exists()


@pytest.mark.slow
def test_regenerations_are_weighted_once(run: Run, feedback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"context": ["Hi"], "chosen": "Hello", "rejected": "What?", "kind": "regeneration"}
    Path(feedback).write_text(f"{json.dumps(line)}\n{json.dumps(JUDGED[0])}\n", encoding="utf-8")
    weights: list[float] = []
    encode = preference_data.encode_judgements

    def noting(judgements: Any, *arguments: Any, **options: Any) -> Any:
        weights.extend(judgement.weight for judgement in judgements)
        return encode(judgements, *arguments, **options)

    monkeypatch.setattr(preference_data, "encode_judgements", noting)
    assert improved(run, feedback, "--regeneration-weight", "0.5") == 0
    assert weights == [0.5, 1]


@pytest.mark.slow
def test_validation_conversations_that_were_judged_are_counted(
    run: Run, feedback: str, capfd: pytest.CaptureFixture[str]
) -> None:
    talks = [[*JUDGED[0]["context"], "Something"], ["Nobody judged this", "Good"]]
    Path("valid.jsonl").write_text("".join(f"{json.dumps(talk)}\n" for talk in talks), encoding="utf-8")
    assert run("improve", "model", "-f", feedback, "--valid", "valid.jsonl", *QUICK) == 0

    assert "1 of the validation conversations begin with the context of a judgement" in capfd.readouterr().err
    held_out = [*ConversationReader("improved-model/held-out.jsonl")]
    assert [one.turns[0] for one in held_out] == ["Nobody judged this"]


@pytest.mark.long
def test_validation_conversations_may_come_by_standard_input(
    run: Run, feedback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert improved(run, feedback, "-o", "one") == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("test.jsonl").read_bytes())))
    assert run("improve", "model", "-f", feedback, "--valid", "-", "--replay", "train.jsonl", *QUICK, "-o", "two") == 0

    one, two = (json.loads(Path(name, "improvement.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert one | {"seconds": 0} == two | {"seconds": 0}
    assert Path("one/held-out.jsonl").read_bytes() == Path("two/held-out.jsonl").read_bytes()


def test_standard_input_is_one_of_the_sources(run: Run, feedback: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("improve", "model", "-f", feedback, "--valid", "-", "--replay", "-") == 1
    assert run("fit", "-", "--valid", "-", "--model", "model") == 1
    assert run("doctor", "model", "-", "--valid", "-") == 1

    message = "standard input (-) is 2 of the sources: give files for the others"
    assert " ".join(capfd.readouterr().err.split()).count(message) == 3


def test_the_help_shows_the_settings_of_improve() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["improve", "--help"])
    shown = " ".join(result.output.split())

    for name, value in SETTINGS.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert f"[default: {value}]" in shown
    assert "[default: improved-model]" in shown


def test_several_processes_are_refused(
    run: Run, feedback: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert improved(run, feedback) == 1
    assert "improve runs in one process" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        ([], (), "feedback.jsonl has no judgement"),
        ([{"prompt": "Hi", "response": "Hello"}], (), "feedback.jsonl:1: "),
        ([{"context": ["Hi"], "chosen": "Hello"}], ("--objective", "dpo"), "1 of 1 judgements have only one response"),
        ([{"context": ["Hi"], "chosen": "Hello"}], ("--objective", "sft"), "sft learns from good responses only"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    run: Run, feedback: str, lines: list[Any], more: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(feedback).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert improved(run, feedback, *more) == 1

    shown = " ".join(capfd.readouterr().err.split())
    assert message in shown
    assert "Traceback" not in shown
