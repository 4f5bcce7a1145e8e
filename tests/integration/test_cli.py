"""The command line as a user meets it: what is printed where, exit codes, and nothing lost."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convmodel import ConversationModel
from convmodel.cli import demo
from convmodel.cli.main import app, main

Run = Callable[..., int]


def test_fit_saves_a_model_that_the_other_commands_use(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run("fit", "train.jsonl", "--valid", "valid.jsonl", "--max-steps", "2", "-m", "gpt2", "--output-dir", "new")
        == 0
    )
    assert run("evaluate", "new", "--data", "test.jsonl") == 0
    assert run("generate", "-m", "new", "Hello", "--max-new-tokens", "3") == 0
    assert "perplexity" in capfd.readouterr().out


def test_results_go_to_standard_output_and_the_rest_to_standard_error(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run("generate", "Hello", "How are you")

    out, err = capfd.readouterr()

    assert out == "Good thank you\n"
    assert "Good thank you" not in err


def test_generate_gives_json_to_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("generate", "Hello", "How are you", "--json", "-n", "2", "-o", "num_beams=2")

    result = json.loads(capfd.readouterr().out)

    assert result["responses"][0] == "Good thank you"
    assert len(result["responses"]) == 2
    assert result["finish_reasons"][0] == "stop"
    assert result["prompt_tokens"] == 7


def test_evaluate_gives_json_to_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("evaluate", "model", "--data", "test.jsonl", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["conversations"] == 4
    assert result["perplexity"] > 1


def test_fit_gives_json_to_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["steps"] == 1
    assert result["config"]["output_dir"] == "new"


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fit.toml").write_text('max_steps = 1\nbatch_size = 2\noutput_dir = "new"\n')

    run("fit", "train.jsonl", "-m", "gpt2", "--config", "fit.toml", "--batch-size", "3", "--json")

    config = json.loads(capfd.readouterr().out)["config"]
    assert (config["max_steps"], config["batch_size"], config["output_dir"], config["seed"]) == (1, 3, "new", 42)


def test_several_speakers_can_be_named(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["--loss-on", "user", "--loss-on", "assistant"]

    run("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1", "--json", *names)

    assert json.loads(capfd.readouterr().out)["config"]["loss_on"] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "/nowhere", "--data", "test.jsonl"], "no folder /nowhere"),
        (["generate", "Hello", "-m", "there-is-none"], "there is no folder there-is-none"),
        (["evaluate", "model", "--data", "nowhere.jsonl"], "no file nowhere.jsonl"),
        (["fit", "nowhere.jsonl", "-m", "gpt2", "--output-dir", "new"], "no file nowhere.jsonl"),
        (["fit", "train.jsonl", "--batch-size", "0"], "batch_size is 0"),
        (["fit", "train.jsonl", "--config", "nowhere.toml"], "no file nowhere.toml"),
        (["fit", "broken.jsonl", "-m", "gpt2", "--output-dir", "new"], "broken.jsonl:2:"),
        (["fit", "train.jsonl", "-m", "gpt2"], "already holds a model"),
        (["fit", "train.jsonl", "-m", "gpt2", "--output-dir", "train.jsonl"], "train.jsonl cannot be written"),
        (["generate", "Hello", "-o", "penalty_alpha=0.6"], "penalty_alpha"),
        (["generate", "Hello", "-o", "wrong"], "NAME=VALUE"),
        (["generate", " "], "turn 1 is empty"),
        (["demo", "--output-dir", "."], "holds something else"),
        (["demo", "--output-dir", "model"], "already holds a model"),
        (["demo", "--output-dir", "train.jsonl"], "it is a file"),
        (["fit", "train.jsonl", "-m", "gpt2", "--output-dir", "."], "holds something else"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_is_one_line_and_exit_code_1(
    run: Run, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("broken.jsonl").write_text('["Hi", "Hello"]\n["Hi",\n')

    code = run(*arguments)

    out, err = capfd.readouterr()
    last = err.strip().splitlines()[-1]
    assert code == 1
    assert out == ""
    assert "Traceback" not in err
    assert last.startswith("convmodel: ")
    assert said in last


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert run("evaluate") == 2
    assert run("fit", "train.jsonl", "--no-such-flag") == 2


def test_debug_shows_the_traceback(reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["convmodel", "evaluate", "/nowhere", "--data", "test.jsonl", "--debug"])
    with pytest.raises(OSError, match="no folder /nowhere"):
        main()


def test_a_model_is_replaced_only_when_asked(run: Run) -> None:
    before = Path("model/model.safetensors").read_bytes()

    refused = run("fit", "train.jsonl", "-m", "gpt2", "--max-steps", "1")
    kept = Path("model/model.safetensors").read_bytes()
    done = run("fit", "train.jsonl", "-m", "gpt2", "--max-steps", "1", "--overwrite")

    assert (refused, done) == (1, 0)
    assert kept == before
    assert Path("model/model.safetensors").read_bytes() != before


@pytest.fixture
def stopped(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run that a signal stopped after its first update, in the folder `new`."""
    from convmodel.training.trainer import FitTrainer

    command = ["fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "3"]
    step = FitTrainer.training_step

    def terminated(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FitTrainer, "training_step", terminated)
        assert run(*command) == 143
    return command


def test_a_stopped_run_goes_on_with_the_same_command(
    run: Run, stopped: list[str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    assert run(*stopped) == 0

    assert "going on from update 1 of 3 in new/checkpoint-1" in caplog.messages
    assert Path("new/model.safetensors").exists()
    assert run(*stopped) == 1
    assert "new already holds a model" in capfd.readouterr().err


def test_a_stopped_run_refuses_another_configuration_and_may_begin_anew(
    run: Run, stopped: list[str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    capfd.readouterr()

    assert run(*stopped, "--seed", "7") == 1
    assert "(seed: 42 there, 7 here): give the same options" in capfd.readouterr().err
    assert Path("new/checkpoint-1/manifest.json").exists()
    assert run(*stopped, "--seed", "7", "--overwrite", "--resume") == 1
    assert "--overwrite begins anew and --resume goes on" in capfd.readouterr().err

    assert run(*stopped, "--seed", "7", "--no-resume") == 0
    assert run(*stopped, "--seed", "8", "--overwrite") == 0

    assert not [message for message in caplog.messages if message.startswith("going on")]
    assert not Path("new/checkpoint-1").exists()


def test_chat_answers_each_line_of_its_input(reader_folder: Path) -> None:
    result = CliRunner().invoke(app, ["chat", "--greedy"], input="Hello\nGood thank you\n")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["How are you", "Glad to hear it"]


def test_chat_obeys_its_commands(reader_folder: Path) -> None:
    lines = ["/undo", "Hello", "/retry", "/save said.jsonl", "/undo", "/save said.jsonl", "/help", "/nothing", "Hi"]

    result = CliRunner().invoke(app, ["chat", "--greedy"], input="\n".join([*lines, "/reset", "/quit", "Hello"]))

    assert result.stdout.splitlines() == ["How are you", "How are you", "Hi there"]
    assert "no turn to take back" in result.stderr
    assert "/save FILE" in result.stderr
    assert "there is no /nothing" in result.stderr
    assert "nothing to save yet" in result.stderr
    saved = json.loads(Path("said.jsonl").read_text())
    assert saved["turns"] == ["Hello", "How are you"]


def test_a_saved_conversation_can_be_learned_from(reader_folder: Path, run: Run) -> None:
    CliRunner().invoke(app, ["chat", "--greedy"], input="Hello\n/save said.jsonl\n")

    assert run("fit", "said.jsonl", "-m", "model", "--output-dir", "new", "--max-steps", "1") == 0


def test_chat_survives_an_interrupted_response(
    reader_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from convmodel.cli.chat import Chat
    from convmodel.model import ConversationModel

    session = ConversationModel.from_pretrained("model").session()
    chat = Chat(session)
    chunks = session.stream("Hello")

    def interrupted():  # type: ignore[no-untyped-def]
        try:
            yield next(chunks)
            raise KeyboardInterrupt
        finally:
            chunks.close()

    chat._show(interrupted())

    assert session.turns == ["Hello", "How"]
    assert "interrupted" in capfd.readouterr().err
    assert session.respond("Hi there") != ""


def test_the_demo_shows_measurements_answers_and_how_to_go_on(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = demo._conversations
    monkeypatch.setattr(demo, "_conversations", lambda name: whole(name)[:20])

    code = run("demo", "--epochs", "0.2", "--output-dir", "shown")

    out, err = capfd.readouterr()
    assert code == 0
    assert "perplexity a token" in out
    assert "perplexity fell by" in err
    assert [line.split()[:2] for line in out.splitlines()][:3] == [
        ["held-out", "conversations"],
        ["perplexity", "a"],
        ["bits", "a"],
    ]
    assert out.count("held-out context") == 1
    for context in demo._choose_contexts(whole("test")[:20]):
        assert context.split()[0] in out
    assert "convmodel chat --model shown" in err
    assert run("generate", "-m", "shown", "Hello") == 0


def test_a_model_that_was_not_written_yet(
    run: Run,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))

    assert run("chat", "--model", "model") == 1

    assert "`convmodel fit` writes one; builtin:chitchat needs none" in " ".join(capfd.readouterr().err.split())


def test_without_a_model_of_ones_own_the_built_in_one_answers(
    run: Run,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built_in = ConversationModel.from_pretrained("builtin:chitchat").generate(["Hello"]).responses[0]
    assert run("generate", "Hello") == 0
    own = capfd.readouterr().out
    monkeypatch.chdir(tmp_path_factory.mktemp("project"))
    Path("model").mkdir()
    Path("model/net.py").touch()  # a folder of this name that is no model

    assert run("generate", "Hello") == 0

    assert capfd.readouterr().out == f"{built_in}\n" != own


def test_the_next_command_is_one_that_the_reader_can_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from convmodel.cli.console import program

    started = tmp_path / ".venv" / "bin" / "convmodel"
    started.parent.mkdir(parents=True)
    started.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(started)])

    monkeypatch.setenv("PATH", "")
    not_found = program()
    started.chmod(0o755)
    monkeypatch.setenv("PATH", str(started.parent))

    assert not_found == ".venv/bin/convmodel"
    assert program() == "convmodel"


def test_a_file_of_settings_may_leave_the_folder_to_a_flag(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fit.toml").write_text("save_steps = 1\nmax_steps = 1\n")

    assert run("fit", "train.jsonl", "-m", "gpt2", "--config", "fit.toml", "--output-dir", "new") == 0

    assert Path("new/checkpoint-1/model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_lowers_perplexity_by_a_third_and_more(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("demo", "--epochs", "1", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["after"]["perplexity"] < 0.7 * result["before"]["perplexity"]
    assert [set(answer) for answer in result["answers"]] == [{"context", "before", "after"}] * 3
    assert all(answer["before"] != answer["after"] for answer in result["answers"])


@pytest.mark.parametrize(
    ("rank", "world", "speaks"),
    [("1", None, True), ("1", "1", True), ("1", "2", False), ("0", "2", True), ("first", "2", True), ("1", "", True)],
)
def test_only_processes_that_train_together_leave_the_word_to_the_first(
    rank: str, world: str | None, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convmodel.cli.console import _rank

    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)

    assert (_rank() == 0) == speaks


def test_a_responder_who_has_not_spoken_is_told(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "Hello", "How are you", "--reply-as", "Ann") == 0
    assert "Ann has not spoken yet" in capfd.readouterr().err
    assert run("generate", "Hello", "--reply-as", "Ann") == 0
    assert run("generate", "Hello", "How are you", "--reply-as", "user") == 0
    assert "has not spoken" not in capfd.readouterr().err
