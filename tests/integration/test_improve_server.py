"""From thumbs to a better model over HTTP: a job, blind votes, using the new model and going back."""

import gc
import json
import os
import shutil
import signal
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_improve import GUARD, command
from scripted import scripted
from serving import HELLO, Answer, Serving, program, serving_loaded, wait_until

from convmodel import ConversationModel
from convmodel.server.serving.improvement import Improver
from convmodel.server.serving.improvement_job import COMMAND

pytestmark = pytest.mark.loopback

LIKED = [*HELLO, {"role": "assistant", "content": "How are you?"}]


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    """A file of 20 judgements, of both ways."""
    path = tmp_path / "feedback.jsonl"
    thumb = {"context": HELLO, "responder": "assistant", "kind": "thumb", "model": "tiny"}
    lines = [thumb | {("chosen", "rejected")[number % 2]: f"Response {number}"} for number in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


Start = Callable[..., AbstractContextManager[Serving]]


@pytest.fixture
def start(tmp_path: Path, gpt2_folder: Path, feedback: Path) -> Start:
    """Starts a server that may train; a second one on the same folder finds what the first one left."""

    @contextmanager
    def start(settings: dict[str, Any] | None = None, **options: Any) -> Iterator[Serving]:
        def load(source: str) -> ConversationModel:
            return ConversationModel.from_pretrained(source, device="cpu")

        improver = Improver(tmp_path / "better", {"tiny": str(gpt2_folder)}, load, [feedback], command(**options))

        def load_all() -> dict[str, ConversationModel]:
            return {"tiny": load(improver.source("tiny"))}

        files = {"feedback": feedback, "votes": tmp_path / "votes.jsonl"}
        with serving_loaded(load_all, improver=improver, **files | (settings or {})) as served:
            wait_until(lambda: served.registry.state == "ready" and improver._registry)
            yield served

    return start


def improve(served: Serving, state: str = "ready") -> Any:
    """Starts an improvement and waits for the state of its candidate."""
    assert served.post("/improve").status == 200
    wait_until(lambda: (served.get("/improve").json["candidate"] or {}).get("state") == state)
    return served.get("/improve").json


def vote(served: Serving, winner: str | None, times: int = 1, models: tuple[str, str] = ("tiny", "tiny-1")) -> Any:
    for _ in range(times):
        body = {"context": ["Hello"], "models": [*models], "responses": ["Hi", "Hey"], "winner": winner}
        body["comparison"] = True
        assert served.post("/votes", **body).status == 200
    return served.get("/improve").json


def refused(answer: Answer, status: int = 409) -> Any:
    assert answer.status == status
    return answer.error["code"]


def test_it_is_off_by_default(server: Serving) -> None:
    for method, path, body in (
        ("GET", "/improve", None), ("POST", "/improve", {}), ("DELETE", "/improve", None),
        ("POST", "/improve/use", {"model": "tiny", "version": "old"}),
    ):  # fmt: skip
        answer = server.ask(method, path, body)
        assert refused(answer, 404) == "training_off"
        assert "--feedback FILE --allow-training FOLDER" in answer.error["message"]
    assert not server.get("/v1/models/tiny").json["convmodel"]["training"]


@pytest.mark.slow
def test_without_the_key_nothing_is_shown_or_started(start: Start) -> None:
    with start({"api_keys": ("secret",)}) as served:
        served.key = None
        for method, path, body in (
            ("GET", "/improve", None), ("POST", "/improve", {}), ("DELETE", "/improve", None),
            ("POST", "/improve/use", {"model": "tiny", "version": "old"}),
        ):  # fmt: skip
            assert refused(served.ask(method, path, body), 401) == "invalid_api_key"
        served.key = "secret"
        assert served.get("/improve").json["job"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/improve", {"model": 3}),
        ("/improve", {"mode": "tiny"}),
        ("/improve", []),
        ("/improve/use", {}),
        ("/improve/use", {"model": "tiny"}),
        ("/improve/use", {"model": "tiny", "version": "best"}),
        ("/improve/use", {"model": "tiny", "version": "old", "force": True}),
    ],
)
def test_bodies_are_strict(start: Start, path: str, body: Any) -> None:
    with start() as served:
        answer = served.ask("POST", path, body)
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        assert served.get("/improve").json["job"] is None


@pytest.mark.slow
def test_what_is_needed_is_told(start: Start, feedback: Path) -> None:
    lines = feedback.read_text().splitlines(keepends=True)
    feedback.write_text("".join(lines[:17:2]))
    with start() as served:
        judgements = served.get("/improve").json["judgements"]
        assert (judgements["kinds"], judgements["liked"]) == ({"thumb": 9}, 9)
        assert judgements["needed"] == "11 more judgements, of disliked responses among them"
        answer = served.post("/improve")
        assert refused(answer) == "feedback_missing"
        assert "11 more judgements" in answer.error["message"]
        assert served.post("/feedback", model="tiny", messages=LIKED, rating="down").status == 200
        assert served.get("/improve").json["judgements"]["needed"] == "10 more judgements"


@pytest.mark.slow
def test_a_job_reports_its_progress_while_the_server_answers(start: Start, feedback: Path) -> None:
    with start(steps=40, pause=0.05, guard=GUARD) as served:
        job = served.post("/improve", model="tiny").json["job"]
        assert (job["model"], job["version"], job["state"]) == ("tiny", "tiny-1", "running")
        wait_until(lambda: served.get("/improve").json["job"]["progress"]["step"] > 2)
        answer = served.post("/improve")
        assert (refused(answer), answer.error["message"][:22]) == ("training_runs", "tiny is being improved")
        assert served.chat(max_tokens=4).status == 200
        progress = served.get("/improve").json["job"]["progress"]
        assert progress["steps"] == 40
        assert progress["losses"][0] == [1, 3.0]
        assert (progress["perplexities"], round(progress["allowed_perplexity"], 6)) == ([[0, 20.0]], 22.0)
        wait_until(lambda: (served.get("/improve").json["candidate"] or {}).get("state") == "ready")
        job = served.get("/improve").json["job"]
        assert (job["state"], job["result"]["guard"], job["result"]["used"]) == ("done", GUARD, 20)


@pytest.mark.slow
def test_a_cancelled_job_is_resumed_by_the_same_request(start: Start) -> None:
    with start(steps=60, pause=0.05) as served:
        assert refused(served.ask("DELETE", "/improve")) == "no_training"
        served.post("/improve")
        wait_until(lambda: served.get("/improve").json["job"]["progress"]["step"] > 2)
        assert served.ask("DELETE", "/improve").json["job"]["state"] == "cancelling"
        wait_until(lambda: served.get("/improve").json["job"]["state"] == "cancelled")
        job = served.get("/improve").json["job"]
        assert job["resumable"]
        again = served.post("/improve").json["job"]
        assert again["version"] == job["version"]
        assert again["progress"]["step"] >= job["progress"]["step"]


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_the_next_one_is_new(start: Start) -> None:
    with start(fail="error: the file has no room") as served:
        served.post("/improve")
        wait_until(lambda: served.get("/improve").json["job"]["state"] == "failed")
        job = served.get("/improve").json["job"]
        assert (job["error"], job["resumable"]) == ("error: the file has no room", False)
        assert served.post("/improve").json["job"]["version"] == "tiny-2"


@pytest.mark.slow
def test_a_model_that_was_left_as_it_was_is_no_candidate(start: Start) -> None:
    with start(guard=GUARD, kept=0) as served:
        served.post("/improve")
        wait_until(lambda: served.get("/improve").json["job"]["state"] == "done")
        state = served.get("/improve").json
        assert (state["candidate"], state["job"]["result"]["steps"]) == (None, 0)
        assert refused(served.post("/improve/use", model="tiny", version="new")) == "no_candidate"


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_reported(start: Start, tmp_path: Path) -> None:
    with start(give=tmp_path / "missing") as served:
        candidate = improve(served, "failed")["candidate"]
        assert "tiny-1" in candidate["error"]
        assert refused(served.post("/improve/use", model="tiny", version="new")) == "no_candidate"


@pytest.mark.long
def test_the_votes_decide_and_both_clicks_survive_a_restart(start: Start, model_folder: Path, tmp_path: Path) -> None:
    greedy: Any = {"temperature": 0, "max_tokens": 8}
    with start(give=model_folder) as served:
        old = served.chat(**greedy).json["choices"][0]["message"]["content"]
        state = improve(served)
        assert state["candidate"]["contexts"][0]["context"][0]["content"] == "How are you?"
        assert [each["id"] for each in served.get("/v1/models").json["data"]] == ["tiny"]
        new = served.chat(model="tiny-1", **greedy).json["choices"][0]["message"]["content"]
        assert new != old
        assert refused(served.post("/improve/use", model="tiny", version="new")) == "votes_missing"
        vote(served, "tiny", 2)
        state = vote(served, None)
        assert state["candidate"]["votes"]["reason"] == "2 more votes are needed"
        state = vote(served, "tiny-1", 2)
        votes = state["candidate"]["votes"]
        assert (votes["wins"], votes["losses"], votes["neither"]) == (2, 2, 1)
        assert (votes["can_use"], votes["verdict"], votes["rate"]) == (True, "undecided", 0.5)
        assert served.chat(**greedy).json["choices"][0]["message"]["content"] == old  # not without the click

        state = served.post("/improve/use", model="tiny", version="new").json
        assert state["models"] == [{"id": "tiny", "version": "tiny-1", "old": "tiny"}]
        assert served.chat(**greedy).json["choices"][0]["message"]["content"] == new
        assert served.chat(model="tiny-1", **greedy).status == 404

    with start(give=model_folder) as served:
        assert served.chat(**greedy).json["choices"][0]["message"]["content"] == new
        state = served.post("/improve/use", model="tiny", version="old").json
        assert (state["models"][0]["version"], state["candidate"]["state"]) == ("tiny", "ready")
        assert served.chat(**greedy).json["choices"][0]["message"]["content"] == old
        assert refused(served.post("/improve/use", model="tiny", version="old")) == "no_old_version"

    with start(give=model_folder) as served:
        assert served.chat(**greedy).json["choices"][0]["message"]["content"] == old
        wait_until(lambda: served.get("/improve").json["candidate"]["state"] == "ready")
        assert served.post("/improve/use", model="tiny", version="new").status == 200  # the votes are kept


@pytest.mark.long
def test_running_requests_finish_on_the_model_they_began_with(start: Start, model_folder: Path) -> None:
    with start(give=model_folder) as served:
        improve(served)
        vote(served, "tiny-1", 5)
        replaced = served.scheduler()
        served.chat(max_tokens=4)
        assert len(replaced.engine.caches)
        said = "word " * 60
        with scripted(served.model(), said, seconds=0.1), ThreadPoolExecutor() as pool:
            running = pool.submit(served.chat, max_tokens=100)
            wait_until(lambda: replaced.running)
            assert served.post("/improve/use", model="tiny", version="new").status == 200
            assert served.scheduler() is not replaced
            assert replaced.running
            assert served.chat(max_tokens=4).status == 200  # the new one answers meanwhile
            assert running.result().json["choices"][0]["message"]["content"] == said
        wait_until(lambda: not replaced._thread.is_alive())
        wait_until(lambda: not len(replaced.engine.caches))


@pytest.mark.slow
def test_a_request_that_comes_too_late_for_the_old_model_gets_the_new_one(
    start: Start, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(give=model_folder) as served:
        improve(served)
        vote(served, "tiny-1", 5)
        old, get = served.registry.get("tiny"), served.registry.get
        assert served.post("/improve/use", model="tiny", version="new").status == 200
        wait_until(lambda: old.scheduler.draining)
        stale: list[Any] = []
        monkeypatch.setattr(served.registry, "get", lambda name: stale.pop() if stale else get(name))
        for path, body in (
            ("chat/completions", {"messages": HELLO, "max_tokens": 2}),
            ("completions", {"prompt": ["a", "b"], "max_tokens": 2}),
            ("responses", {"input": "Hello", "max_output_tokens": 2}),
        ):
            stale.append(old)
            assert served.post(f"/v1/{path}", model="tiny", **body).status == 200
            assert not stale
        served.registry.drain()
        assert refused(served.chat(max_tokens=2), 503) == "draining"


@pytest.mark.slow
def test_the_memory_of_a_replaced_model_is_freed(start: Start, model_folder: Path) -> None:
    """By counting references: `serve` excludes the models that it loads from garbage collection."""
    with start(give=model_folder) as served:
        old = weakref.ref(served.registry.get("tiny").model.hf_model)
        served.chat(max_tokens=4)
        improve(served)
        vote(served, "tiny-1", 5)
        gc.disable()
        try:
            assert served.post("/improve/use", model="tiny", version="new").status == 200
            wait_until(lambda: old() is None)
        finally:
            gc.enable()
        assert served.chat(max_tokens=4).status == 200


@pytest.mark.slow
def test_a_stopped_server_interrupts_the_job_and_the_next_one_resumes_it(start: Start) -> None:
    with start(steps=200, pause=0.05) as served:
        served.post("/improve")
        wait_until(lambda: served.get("/improve").json["job"]["progress"]["step"] > 2)
    with start(steps=5, pause=0.01) as served:
        job = served.get("/improve").json["job"]
        assert (job["state"], job["resumable"], job["version"]) == ("interrupted", True, "tiny-1")
        assert job["progress"]["step"] > 2
        state = improve(served)
        assert state["candidate"]["id"] == "tiny-1"


@pytest.mark.slow
def test_many_clicks_at_once_start_one_job(start: Start) -> None:
    with start(steps=100, pause=0.05) as served, ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: served.post("/improve").status, range(8))]
        assert sorted(answers) == [200, *[409] * 7]
        assert len([*Path(served.registry.improver._file.folder).glob("*.log")]) == 1  # type: ignore[union-attr]


@pytest.mark.long
def test_a_killed_server_finds_its_job_again(tmp_path: Path, gpt2_folder: Path, feedback: Path) -> None:
    """The programs are real ones, as people run them; the job's command is a stand-in."""
    fake = command(steps=2000, pause=0.1)
    code = (
        "import sys\n"
        "from convmodel.server.serving import improvement_job\n"
        f"improvement_job.COMMAND = {fake!r}\n"
        "from convmodel.cli.main import main\n"
        "main()\n"
    )
    (tmp_path / "main.py").write_text(code)
    shutil.copytree(gpt2_folder, tmp_path / "tiny")
    arguments = ["tiny", "--feedback", str(feedback), "--allow-training", "better"]
    with program(tmp_path, *arguments, script=tmp_path / "main.py") as served:
        wait_until(served.ready, 60)
        served.post("/improve")
        wait_until(lambda: served.get("/improve").json["job"]["progress"]["step"])
        served.end(signal.SIGKILL)
    pid = json.loads((tmp_path / "better/improvements.json").read_text())["job"]["pid"]
    os.kill(pid, 0)  # it runs on
    with program(tmp_path, *arguments, script=tmp_path / "main.py") as served:
        wait_until(served.ready, 60)
        job = served.get("/improve").json["job"]
        assert (job["state"], job["version"]) == ("running", "tiny-1")
        assert refused(served.post("/improve")) == "training_runs"
        served.ask("DELETE", "/improve")
        wait_until(lambda: served.get("/improve").json["job"]["state"] == "cancelled")
        assert served.end() == 0


@pytest.mark.slow
def test_a_server_that_loads_asks_to_wait(start: Start) -> None:
    with start() as served:
        improver = served.registry.improver
        assert improver is not None
        registry, improver._registry = improver._registry, None
        answer = served.get("/improve")
        assert (refused(answer, 503), answer.headers["retry-after"]) == ("loading", "2")
        improver._registry = registry


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow-training", "better"], "--allow-training trains on the file of --feedback: give --feedback FILE"),
        (["--host", "0.0.0.0", "--insecure-no-auth"], "0.0.0.0 could start training without a key: give --api-key"),
        (["--allowed-host", "*"], "a page of any site could start training without a key"),
        (["--allowed-host", "chat.example"], "a page of chat.example could start training without a key"),
        (["--layout", "separator"], "leave --layout out"),
        (["--valid", "no-such-file"], "there is no file no-such-file, which --valid names"),
        (["--replay", "no-such-file"], "there is no file no-such-file, which --replay names"),
        (["--host", "192.0.2.7", "--api-key", "key"], "cannot listen on 192.0.2.7"),  # with a key it may
        (["--port", "0"], "improvements.json is damaged"),
        (["--feedback", "no/such/file"], "no/such/file cannot be written"),
    ],
)
def test_training_is_not_allowed_by_accident(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if "damaged" in message:
        Path("better").mkdir()
        Path("better/improvements.json").write_text("{")
    given = arguments if "FILE" in message else ["--feedback", "f.jsonl", "--allow-training", "better", *arguments]
    assert run("serve", "model", *given) == 1
    shown = capfd.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("flag", ["--valid", "--replay"])
def test_validation_data_and_replayed_data_are_for_training(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run("serve", "model", flag, "test.jsonl", "--port", "0") == 1
    assert f"{flag} is for training: give --allow-training DIR with it" in capfd.readouterr().err


def test_the_servers_validation_data_and_replayed_data_are_those_of_the_run(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    make = Improver.__init__

    def noting(self: Improver, *arguments: Any) -> None:
        commands.append(list(arguments[-1]))
        make(self, *arguments)

    monkeypatch.setattr(Improver, "__init__", noting)
    monkeypatch.setattr("convmodel.server.run.run", lambda registry, listener, fine_tuning: listener.close())
    given = ["--feedback", "f.jsonl", "--port", "0", "--allow-training"]
    file = str(Path("test.jsonl").resolve())
    assert run("serve", "model", *given, "better", "--valid", "test.jsonl") == 0
    assert run("serve", "model", *given, "other", "--replay", "none") == 0
    assert run("serve", "model", *given, "more", "--replay", "test.jsonl", "--valid", "test.jsonl") == 0
    assert run("serve", "model", *given, "most") == 0
    expected = [["--valid", file], ["--replay", "none"], ["--valid", file, "--replay", file], []]
    assert commands == [[*COMMAND, *more] for more in expected]
