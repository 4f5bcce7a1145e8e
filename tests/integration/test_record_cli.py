"""`convmodel record`: the answers of another model as training data, from our server and from one that fails."""

import errno
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answering import Answering, Reply, answering, failed, last, said
from serving import PATIENCE, Serving, wait_until

from convmodel import ConversationModel
from convmodel.cli import remote_answers, remote_server
from convmodel.data.reading.reader import read_conversations
from convmodel.generation.recording import answers_file

pytestmark = pytest.mark.loopback

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _alone(reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_answers, "_FIRST_WAIT", 0.001)
    for name in ("CONVMODEL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write("contexts.jsonl", ["Hi"], ["Hi", "Hello", "And you?"], ["Bye"])


def write(name: str, *conversations: list[str] | dict[str, Any]) -> None:
    Path(name).write_text("".join(f"{json.dumps(one)}\n" for one in conversations))


def turns(name: str = "data.jsonl") -> list[tuple[str, ...]]:
    return [tuple(one.turns) for one in read_conversations(name)]


def test_answers_become_training_data(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as server:
        assert run("record", "contexts.jsonl", "--url", server.url, "--model", "m", "-o", "data.jsonl") == 0
    assert turns() == [("Hi", "Re: Hi"), ("Hi", "Hello", "And you?", "Re: And you?"), ("Bye", "Re: Bye")]
    assert json.loads(Path("data.jsonl").read_text().splitlines()[1]) == {
        "id": "contexts.jsonl:2",
        "turns": ["Hi", "Hello", "And you?", "Re: And you?"],
        "speakers": ["user", "assistant", "user", "assistant"],
        "weights": [0.0, 0.0, 0.0, 1.0],
    }
    shown = capsys.readouterr().err
    assert "data.jsonl: 3 of 3 contexts with their answers, in " in shown
    assert "; 9 prompt tokens and 6 response tokens in all" in shown
    assert not Path("data.jsonl.recording").exists()
    assert all(body.keys() == {"model", "messages"} for body in server.requests)


def test_options_are_parameters_of_the_requests(run: Run) -> None:
    with answering() as server:
        options = ["--max-tokens", "9", "--temperature", "0.5", "--system", "Be kind.", "--option", "top_p=0.9"]
        assert run("record", "contexts.jsonl", "--url", server.url, "-o", "data.jsonl", *options) == 0
    body = server.requests[0]
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    del body["messages"]
    assert body == {"model": "m", "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9}
    assert read_conversations("data.jsonl")[0].pinned == 1


def test_our_own_server_is_recorded_as_it_responds(
    run: Run, server: Serving, served_models: dict[str, ConversationModel]
) -> None:
    write("talks.jsonl", ["Hi", "Hello", "And you?", "Fine"], ["Bye", "See you"])
    flags = ["--url", server.url, "--model", "tiny", "--max-tokens", "9", "--temperature", "0", "--keep-cut"]
    assert run("record", "talks.jsonl", *flags, "--each-turn", "-o", "data.jsonl") == 0

    contexts = [["Hi"], ["Hi", "Hello", "And you?"], ["Bye"]]
    model = served_models["tiny"]
    expected = [
        (*context, response)
        for context in contexts
        if (response := model.generate(context, max_new_tokens=9).responses[0]).strip()
    ]
    assert turns() == expected
    assert [one.id for one in read_conversations("data.jsonl")][:1] == ["talks.jsonl:1#2"]


@pytest.mark.slow
def test_a_model_can_be_measured_against_what_was_recorded(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(lambda body, _: said("Hi there" if last(body) == "Hi" else "Fine")) as server:
        write("talks.jsonl", *(["Hi", "x", f"And you {number}?", "y"] for number in range(4)))
        assert run("record", "talks.jsonl", "--each-turn", "--url", server.url, "-o", "recorded.jsonl") == 0
    capsys.readouterr()
    assert run("evaluate", "model", "--data", "recorded.jsonl", "--responses", "8", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    answers = [one.turns[-1] for one in read_conversations("recorded.jsonl")]
    assert answers == ["Hi there", "Fine"] * 4
    # Only the recorded answers are targets: their tokens, and one that ends each.
    from convmodel.layout.tokenizer import ConversationTokenizer

    tokenizer = ConversationTokenizer.from_pretrained("model")
    assert result["tokens"] == sum(len(tokenizer.encode(answer)) + 1 for answer in answers)
    [model] = result["models"]
    assert {"bits_per_byte", "chrf", "f1"} <= model["metrics"].keys()


def test_a_recording_that_ended_is_not_asked_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl"]
        assert run("record", *flags) == 0
        before = Path("data.jsonl").read_bytes()
        assert run("record", *flags) == 1
        assert "data.jsonl already exists: give another --output, or --overwrite" in capsys.readouterr().err
        assert len(server.requests) == 3
        assert run("record", *flags, "--overwrite") == 0
        assert len(server.requests) == 6
    assert Path("data.jsonl").read_bytes() == before


def start(server: Answering, *arguments: str, begin: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "convmodel", "record", "many.jsonl", "--url", server.url, "-m", "m"]
    command += ["-o", "data.jsonl", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=begin)


@pytest.mark.slow
def test_a_killed_recording_asks_for_nothing_that_it_has(run: Run) -> None:
    count, kills, parallel = 60, 5, 3
    write("many.jsonl", *([f"Question {number}"] for number in range(count)))
    may_answer = threading.Semaphore(0)

    def reply(body: dict[str, Any], earlier: int) -> Reply:
        assert may_answer.acquire(timeout=PATIENCE)
        return said(f"Re: {last(body)}")

    with answering(reply) as server:
        for kill in range(1, kills + 1):
            expected = len(server.requests) + 7 + parallel
            with start(server, "--parallel", f"{parallel}") as process:
                may_answer.release(7)
                wait_until(lambda expected=expected: len(server.requests) >= expected)
                process.kill()  # three are open
            may_answer.release(parallel)
            wait_until(lambda: not server.open)
            lines = Path("data.jsonl.recording").read_bytes().count(b"\n") - 1
            assert lines >= 7 * kill - parallel * kill
            assert not Path("data.jsonl").exists()
        may_answer.release(count)
        with start(server, "--parallel", f"{parallel}") as process:
            assert process.wait(PATIENCE) == 0
        assert len(server.requests) <= count + kills * 2 * parallel  # open, or just answered, when it was killed
        assert {*server.texts()} == {f"Question {number}" for number in range(count)}
    resumed = Path("data.jsonl").read_bytes()
    assert not Path("data.jsonl.recording").exists()
    with answering() as server:
        assert run("record", "many.jsonl", "--url", server.url, "-o", "once.jsonl") == 0
    assert Path("once.jsonl").read_bytes() == resumed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")
def test_where_nothing_more_can_be_written_the_answers_so_far_stay() -> None:
    import resource

    write("many.jsonl", *([f"Question {number}"] for number in range(40)))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    with answering() as server:
        with start(server, "--parallel", "1", begin=limit) as process:
            assert process.stderr is not None
            text = process.stderr.read()
            assert process.wait(PATIENCE) == 1
        assert "data.jsonl.recording cannot be written: File too large; the answers in it stay" in text
        kept = Path("data.jsonl.recording").read_bytes()
        assert kept.endswith(b"\n")
        answers = kept.count(b"\n") - 1
        assert 0 < answers < 40
        server.requests.clear()
        with start(server) as process:
            assert process.wait(PATIENCE) == 0
        assert len(server.requests) == 40 - answers
    assert turns() == [(f"Question {number}", f"Re: Question {number}") for number in range(40)]


def test_a_file_that_cannot_be_written_is_written_from_the_journal_later(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with answering() as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl"]
        with monkeypatch.context() as full:
            full.setattr(answers_file, "write_jsonl", fail)
            assert run("record", *flags) == 1
        message = "data.jsonl cannot be written: No space left on device; the answers stay in data.jsonl.recording"
        assert message in capsys.readouterr().err
        assert run("record", *flags) == 0
        assert len(server.requests) == 3
    assert len(turns()) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_what_came_and_what_is_open(number: int, code: int) -> None:
    write("many.jsonl", *([f"Question {number}"] for number in range(20)))
    released = threading.Event()

    def reply(body: dict[str, Any], earlier: int) -> Reply:
        if last(body) in ("Question 4", "Question 5"):
            assert released.wait(PATIENCE)
        return said(f"Re: {last(body)}")

    with answering(reply) as server, start(server, "--parallel", "2") as process:
        wait_until(lambda: server.open == 2)
        process.send_signal(number)
        assert process.stderr is not None
        line = process.stderr.readline()  # of the thread that the signal starts
        released.set()
        text = line + process.stderr.read()
        assert process.wait(PATIENCE) == code
    assert "waiting for the requests that are open (again to stop at once)" in text
    assert "stopped the recording, 14 contexts are left: the same command resumes" in text
    assert turns() == [(f"Question {number}", f"Re: Question {number}") for number in range(6)]
    assert Path("data.jsonl.recording").exists()


def test_cut_answers_are_asked_for_again_with_a_higher_limit(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def reply(body: dict[str, Any], earlier: int) -> Reply:
        is_long = last(body) == "Bye" and body["max_completion_tokens"] < 20
        return said("Go", "length") if is_long else said(f"Re: {last(body)}")

    with answering(reply) as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl", "--max-tokens"]
        assert run("record", *flags, "9") == 0
        assert "1 answers were cut at the length limit and left out" in capsys.readouterr().err
        assert len(turns()) == 2
        assert run("record", *flags, "9") == 0
        assert len(server.requests) == 3
        assert run("record", *flags, "9", "--json", "--keep-cut") == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["outcomes"], result["kept"], result["written"]) == ({"recorded": 2, "cut": 1}, 3, 3)
        assert not Path("data.jsonl.recording").exists()
        assert run("record", *flags, "9", "--overwrite") == 0
        assert run("record", *flags, "20") == 0
        assert server.texts()[6:] == ["Bye"]
    assert turns()[2] == ("Bye", "Re: Bye")
    assert not Path("data.jsonl.recording").exists()


def test_what_is_left_out_is_counted_with_the_first_reason(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    replies = {
        "a": said("Hello"),
        "b": said(None, refusal="I cannot\nsay."),
        "c": said(None, "content_filter"),
        "d": said(""),
        "e": failed(400, "too long"),
    }
    write("contexts.jsonl", *([name] for name in replies))
    with answering(lambda body, _: replies[last(body)]) as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl", "--parallel", "1"]
        assert run("record", *flags) == 0
    shown = capsys.readouterr().err
    assert "data.jsonl: 1 of 5 contexts with their answers" in shown
    assert "2 contexts were refused and left out, the first by: I cannot say." in shown
    assert "1 answers have no text and were left out, the first with finish reason stop" in shown
    assert "1 contexts were rejected by the server and left out, the first with: too long" in shown
    assert turns() == [("a", "Hello")]
    server_accepts = said("Well")
    with answering(lambda body, _: server_accepts) as later:
        Path("data.jsonl.recording").write_text(
            Path("data.jsonl.recording").read_text().replace(server.url, later.url)  # the same server, later
        )
        assert run("record", "contexts.jsonl", "--url", later.url, "-o", "data.jsonl") == 0
        assert later.texts() == ["e"]
    assert turns() == [("a", "Hello"), ("e", "Well")]
    assert not Path("data.jsonl.recording").exists()


def test_a_server_that_has_another_model_now_does_not_resume(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(lambda body, _: said("Hello") if last(body) == "Hi" else failed(500, "oh")) as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl", "--parallel", "1"]
        assert run("record", *flags) == 1
        server.models = ["other"]
        server.requests.clear()
        assert run("record", *flags) == 1
        assert "has answers of the model m, and the server now has other" in capsys.readouterr().err
        assert server.requests == []
    assert turns() == [("Hi", "Hello")]


def test_overwriting_loses_no_answer_to_a_server_that_is_gone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(lambda body, _: said("Hello") if last(body) == "Hi" else failed(401, "oh")) as server:
        flags = ["contexts.jsonl", "--url", server.url, "-m", "m", "-o", "data.jsonl", "--parallel", "1"]
        assert run("record", *flags) == 1
    before = Path("data.jsonl.recording").read_bytes()
    capsys.readouterr()
    assert run("record", *flags, "--overwrite") == 1
    assert capsys.readouterr().err.startswith(f"convmodel: {server.url} does not answer")
    assert Path("data.jsonl.recording").read_bytes() == before
    assert turns() == [("Hi", "Hello")]


def test_a_server_that_fails_is_given_up_and_what_came_is_written(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("contexts.jsonl", *([name] for name in "abcdef"))
    is_well = False
    with answering(lambda body, _: said("Hello") if is_well or last(body) == "a" else failed(500, "oh")) as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl", "--parallel", "1", "--max-failures", "2"]
        assert run("record", *flags) == 1
        shown = capsys.readouterr().err
        assert "data.jsonl: 1 of 6 contexts" in shown
        assert "failed for 2 contexts in a row, the last: 500: oh" in shown
        assert turns() == [("a", "Hello")]
        is_well = True
        server.requests.clear()
        assert run("record", *flags) == 0
        assert server.texts() == [*"bcdef"]
    assert "6 of 6 contexts with their answers, 1 of them by an earlier call" in capsys.readouterr().err
    assert len(turns()) == 6


def test_other_settings_are_tried_after_a_server_rejected_everything(run: Run) -> None:
    with answering(lambda body, _: failed(400, "no top_k") if "top_k" in body else said("Hello")) as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl"]
        assert run("record", *flags, "--option", "top_k=5") == 1
        assert run("record", *flags) == 0
    assert len(turns()) == 3


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_keeps_what_came() -> None:
    write("many.jsonl", *([f"Question {number}"] for number in range(20)))
    released = threading.Event()

    def reply(body: dict[str, Any], earlier: int) -> Reply:
        if last(body) == "Question 4":
            released.wait(PATIENCE)
        return said(f"Re: {last(body)}")

    with answering(reply) as server:
        with start(server, "--parallel", "1") as process:
            wait_until(lambda: server.texts()[-1:] == ["Question 4"])
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert "again to stop at once" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        assert not released.is_set()
        released.set()
    assert len(Path("data.jsonl.recording").read_text().splitlines()) == 1 + 4


def test_a_server_that_is_gone_leaves_what_came(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(lambda body, _: said("Hello") if last(body) == "Hi" else failed(500, "oh")) as server:
        flags = ["contexts.jsonl", "--url", server.url, "-m", "m", "-o", "data.jsonl", "--parallel", "1"]
        assert run("record", *flags) == 1
        assert "2 contexts failed, the first with: 500: oh; the same command resumes" in capsys.readouterr().err
    Path("data.jsonl").unlink()
    assert run("record", *flags) == 1
    assert "does not answer" in capsys.readouterr().err
    assert turns() == [("Hi", "Hello")]


def test_the_key_of_openai_is_sent_to_no_other_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    with answering() as server:
        assert run("record", "contexts.jsonl", "--url", server.url, "-o", "data.jsonl") == 0
    assert len(server.requests) == 3
    assert not any("authorization" in headers for headers in server.headers)


def test_keys_are_those_of_the_flag_the_file_or_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_text("of-the-file\n")
    with answering() as server:

        def key(*flags: str) -> str | None:
            assert run("record", "contexts.jsonl", "--url", server.url, "-o", "data.jsonl", "--overwrite", *flags) == 0
            return server.headers[-1].get("authorization")

        assert key() is None
        monkeypatch.setattr(remote_server, "openai_key", lambda url: "of-openai" if url == server.url else None)
        assert key() == "Bearer of-openai"
        monkeypatch.setenv("CONVMODEL_API_KEY", "of-convmodel")
        assert key() == "Bearer of-convmodel"
        assert key("--api-key", "of-the-flag") == "Bearer of-the-flag"
        assert key("--key-file", "key") == "Bearer of-the-file"
    assert b"of-" not in Path("data.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--each-turn"], "contexts.jsonl:1: no turn of assistant after another turn"),
        (["--option", "n=2"], "--option n does not suit a recording: leave it out"),
        (["--option", "top_p"], "--option top_p: write NAME=VALUE, such as top_p=0.9"),
        (["--key-file", "missing"], "missing cannot be read"),
        (["-o", "contexts.jsonl", "--overwrite"], "contexts.jsonl holds the contexts"),
        (["--url", "127.0.0.1:9"], "does not answer"),
        (["--model", "m", "--format", "speech"], "there is no format speech"),
    ],
)
def test_wrong_usage_is_an_error_before_the_first_request(
    run: Run, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with answering() as server:
        assert run("record", "contexts.jsonl", "--url", server.url, "-o", "data.jsonl", *flags) == 1
        assert server.requests == []
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("data.jsonl").exists()
    assert not Path("data.jsonl.recording").exists()


def test_rows_that_cannot_be_asked_are_skipped_and_counted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("contexts.jsonl", ["Hi"], *[["Hi", "Hello"]] * 30, {"turns": []})
    with answering() as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl", "--on-error", "skip", "--json"]
        assert run("record", *flags) == 0
    shown = capsys.readouterr()
    assert "31 rows were left out, the first: contexts.jsonl:2: the conversation does not end" in shown.err
    assert json.loads(shown.out)["problems"] == 31
    assert turns() == [("Hi", "Re: Hi")]


@pytest.mark.slow
def test_contexts_from_standard_input_are_recorded_but_not_resumed(run: Run) -> None:
    command = [sys.executable, "-m", "convmodel", "record", "-", "-m", "m", "-o", "data.jsonl", "--max-failures", "1"]

    def record(server: Answering) -> "subprocess.CompletedProcess[str]":
        line = [*command, "--url", server.url]
        return subprocess.run(line, input='["Hi"]\n', text=True, capture_output=True, timeout=120, check=False)

    with answering(lambda body, _: said("Hello") if server.requests[1:] else said("Hel", "length")) as server:
        done = record(server)
        assert (done.returncode, "no context has an answer to keep" in done.stderr) == (1, True)
        done = record(server)
        assert done.returncode == 1
        assert "data.jsonl is unfinished, and its contexts cannot be read again: --overwrite" in done.stderr
        command.append("--overwrite")
        assert record(server).returncode == 0
    assert turns() == [("Hi", "Hello")]


def test_the_pace_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Watched(remote_answers.Pace):
        def __init__(self, per_minute: float | None, wait: Callable[[float], object]) -> None:
            super().__init__(per_minute, wait)
            waits.append(per_minute or 0)

    monkeypatch.setattr(remote_answers, "Pace", Watched)
    with answering() as server:
        flags = ["contexts.jsonl", "--url", server.url, "-o", "data.jsonl", "--requests-per-minute", "6000"]
        assert run("record", *flags) == 0
    assert waits == [6000]
