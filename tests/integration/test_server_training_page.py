"""`/train` over HTTP: the real import; a stand-in checks and trains, but for the tests marked slow."""

import gzip
import io
import json
import os
import shutil
import signal
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fine_tuning_service import FORM, PAIR, TALK, Tune, Tuning, exists, lines, make_tune, multipart
from openai import OpenAI
from serving import HELLO, program, wait_until

from convmodel.errors import SaveError
from convmodel.server.fine_tuning import import_command
from convmodel.server.settings import TrainingLimits

pytestmark = pytest.mark.loopback


def chat(days: int = 20, *, others: tuple[str, ...] = ("Ann",)) -> bytes:
    """WhatsApp's export of a chat with Will, one conversation a day."""
    text, begin = [], datetime(2021, 1, 1, 10, 0)
    for day in range(days):
        at = begin + timedelta(days=day)
        text.append(f"{at:%d/%m/%Y, %H:%M} - {others[day % len(others)]}: Did it rain on day {day} of our journey?")
        text.append(f"{at + timedelta(minutes=1):%d/%m/%Y, %H:%M} - Will: No, {day * day} clouds passed, all dry.")
    return "\n".join(text).encode() + b"\n"


@pytest.fixture
def tune(tmp_path: Path, gpt2_folder: Path) -> Tune:
    return make_tune(tmp_path, gpt2_folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Iterator[Tuning]:
    with make_tune(tmp_path_factory.mktemp("shared"), gpt2_folder)(steps=2) as tuning:
        yield tuning


@pytest.fixture
def tuning(shared: Tuning) -> Tuning:
    """A server that tests share."""
    return shared


def upload(tuning: Tuning, content: bytes, name: str = "WhatsApp Chat with Ann.txt") -> str:
    return tuning.client.files.create(file=(name, content), purpose="user_data").id


def state(tuning: Tuning, id: str) -> Any:
    return tuning.served.get(f"/train/preparations/{id}").json


def begin(tuning: Tuning, *files: str, **options: Any) -> Any:
    answer = tuning.served.post("/train/preparations", **{"files": [*files], "model": "tiny"} | options)
    assert answer.status == 200, answer.body
    return answer.json


def prepare(tuning: Tuning, *files: str, **options: Any) -> Any:
    """Creates a preparation and waits for its end."""
    id = begin(tuning, *files, **options)["id"]
    wait_until(lambda: state(tuning, id)["status"] not in ("importing", "checking"), 90)
    return state(tuning, id)


def content(tuning: Tuning, file: str) -> list[Any]:
    return [json.loads(line) for line in tuning.client.files.content(file).text.splitlines()]


@pytest.mark.slow
def test_an_export_becomes_a_job(tuning: Tuning) -> None:
    file = upload(tuning, chat())
    created = begin(tuning, file)
    assert created | {"id": "", "created_at": 0} == {
        "object": "train.preparation", "id": "", "created_at": 0, "files": [file],
        "filenames": ["WhatsApp Chat with Ann.txt"], "model": "tiny", "me": None, "merge_others": False,
        "redact": False, "on_error": "fail", "status": "importing", "error": None, "summary": None, "speakers": [],
        "more_speakers": 0, "training_file": None, "validation_file": None, "checks": None, "blocking": "",
        "estimate": None,
    }  # fmt: skip
    wait_until(lambda: state(tuning, created["id"])["status"] != "importing", 90)
    asked = state(tuning, created["id"])
    assert (asked["status"], asked["training_file"], asked["checks"]) == ("needs_speaker", None, None)
    assert [(speaker["name"], speaker["turns"]) for speaker in asked["speakers"]] == [("Ann", 20), ("Will", 20)]
    assert asked["speakers"][1]["first_words"] == "No, 0 clouds passed, all dry."
    assert asked["summary"]["formats"] == {"whatsapp": 1}

    ready = prepare(tuning, file, me="Will")
    assert (ready["status"], ready["error"], ready["blocking"]) == ("ready", None, "")
    assert [check["name"] for check in ready["checks"]] == ["separator", "steps"]
    assert ready["estimate"] == {"steps": 3, "seconds": 1.5}
    train, valid = (content(tuning, ready[name]) for name in ("training_file", "validation_file"))
    assert (len(train), len(valid)) == (18, 2)
    assert train[0]["speakers"] == ["user", "assistant"]
    assert train[0]["id"] == "WhatsApp Chat with Ann.txt:1"
    names = {one.id: (one.filename, one.purpose) for one in tuning.client.files.list()}
    assert names[ready["training_file"]] == ("WhatsApp Chat with Ann.train.jsonl", "fine-tune")
    folder = tuning.service.preparations._store.path(ready["id"])
    assert not {"input", "data"} & {path.name for path in folder.iterdir()}  # no copy of what people wrote stays

    job = tuning.train(training_file=ready["training_file"], validation_file=ready["validation_file"], suffix="will")
    assert job.status == "succeeded"
    listed = tuning.served.get("/train/preparations").json["data"]
    assert [one["id"] for one in listed][:2] == [ready["id"], asked["id"]]
    assert tuning.served.get(f"/train/preparations?limit=1&after={ready['id']}").json["data"] == [asked]


@pytest.mark.slow
def test_a_job_is_shown_live(tune: Tune) -> None:
    with tune(steps=600, pause=0) as tuning:
        file = tuning.upload()
        job = tuning.train(training_file=file, validation_file=tuning.upload(), suffix="kind")
        view = tuning.served.get(f"/train/jobs/{job.id}").json
        assert view["job"] == tuning.served.get(f"/v1/fine_tuning/jobs/{job.id}").json
        assert (view["total_steps"], view["step"], view["seconds_left"]) == (600, 600, None)
        assert (len(view["train"]), view["train"][0], view["train"][-1][0]) == (500, [1, 3.0], 600)
        assert view["valid"] == [[600, 3.05, 21.0]]
        assert (view["samples"], view["base"], view["model"]) == ([], "tiny", job.fine_tuned_model)
        assert view["verdict"] == "Better: validation perplexity fell from 30.00 to 21.00, by 30%."
        assert [check["status"] for check in view["checks"]] == ["pass", "warn"]
        arrays = ("train", "valid", "samples", "checks")
        (listed,) = tuning.served.get("/train/jobs").json["data"]
        assert listed == {name: value for name, value in view.items() if name not in arrays}
        arguments = json.loads((tuning.service._jobs.model(job.id) / "arguments.json").read_text())
        assert dict(pairwise(arguments))["--samples"] == "3"
        sample = {"step": 7, "context": [{"role": "user", "content": "Hello"}], "expected": "Hi", "response": "Ho"}
        with (tuning.service._jobs.model(job.id) / "samples.jsonl").open("ab") as lines_of_samples:
            lines_of_samples.write(lines(sample) + b'{"step": 8, "con')
        assert tuning.served.get(f"/train/jobs/{job.id}").json["samples"] == [sample]
        assert tuning.served.get("/train/jobs/ftjob-none").error["code"] == "fine_tune_not_found"


@pytest.mark.slow
def test_a_running_job_says_how_long_it_takes(tune: Tune) -> None:
    with tune(steps=5000, pause=0.05) as tuning:
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=tuning.upload())
        view: Any = {}

        def measured() -> bool:
            view.update(tuning.served.get(f"/train/jobs/{job.id}").json)
            return view["step"] > 2

        wait_until(measured)
        assert view["total_steps"] == 5000
        assert 0 < view["seconds_left"] <= 5000 * 1.5  # the stand-in reports 1.5 s per step
        assert (view["verdict"], view["model"], view["job"]["status"]) == (None, None, "running")
        tuning.client.fine_tuning.jobs.pause(job.id)
        assert tuning.served.get(f"/train/jobs/{job.id}").json["seconds_left"] is None


@pytest.mark.slow
def test_a_file_that_a_preparation_needs_stays(tune: Tune) -> None:
    with tune(hang=60) as tuning:
        file = upload(tuning, chat())
        id = begin(tuning, file, me="Will")["id"]
        answer = tuning.served.ask("DELETE", f"/v1/files/{file}")
        assert (answer.status, answer.error["code"]) == (409, "file_in_use")
        assert f"{file} is needed by {id}: wait for its end, or delete it" in answer.error["message"]
        wait_until(lambda: tuning.service.preparations.get(id).pid)
        process = tuning.service.preparations._queue._processes[id]
        answer = tuning.served.ask("DELETE", f"/train/preparations/{id}")
        assert answer.json == {"object": "train.preparation", "id": id, "deleted": True}
        wait_until(lambda: not process.running)
        wait_until(lambda: not tuning.service.preparations._store.path(id).exists())
        assert tuning.served.get(f"/train/preparations/{id}").error["code"] == "preparation_not_found"
        assert tuning.served.ask("DELETE", f"/v1/files/{file}").status == 200


@pytest.mark.slow
def test_a_preparation_that_is_deleted_as_its_import_ends_leaves_no_file(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tune(talks=9) as tuning:
        file, preparations = upload(tuning, chat()), tuning.service.preparations
        remove = preparations._queue.remove

        def late(id: str) -> Any:
            wait_until(lambda: preparations.get(id).training_file)
            return remove(id)

        monkeypatch.setattr(preparations._queue, "remove", late)
        id = begin(tuning, file, me="Will")["id"]
        assert tuning.served.ask("DELETE", f"/train/preparations/{id}").status == 200
        assert [one.id for one in tuning.client.files.list()] == [file]
        assert tuning.served.ask("DELETE", f"/train/preparations/{id}").error["code"] == "preparation_not_found"


@pytest.mark.slow
def test_a_preparation_that_takes_too_long_ends(tune: Tune) -> None:
    with tune(limits=TrainingLimits(preparation_seconds=0.5), hang=60) as tuning:
        failed = prepare(tuning, upload(tuning, chat()))
        assert (failed["status"], failed["error"]["code"]) == ("failed", "time_limit")
        assert failed["error"]["message"].startswith("it was not done within 0.5 s: split the files")


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


EASY = "write it as lines of `Name: text` in a .txt file"
REFUSED: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "empty text": ("chat.txt", b"", {}, f"chat.txt is not a known chat export (signal, whatsapp,|{EASY}"),
    "empty lines": ("talks.jsonl", b"", {}, "talks.jsonl has no conversation: write one per line"),
    "without a suffix": ("talks", b"\0\1\2", {}, "talks:1"),
    "pdf": ("Chat: Ann?.pdf", b"%PDF-1.4\n\0\1", {}, f"Chat: Ann?.pdf is not a known chat export|{EASY}"),
    "page": ("chat.html", b"<html>Hello</html>", {}, "chat.html: this looks like a page of HTML, which is not read"),
    "module": ("torch.py", b"raise SystemExit", {}, "torch.py is not a known chat export"),
    "path": ("../../etc/passwd.txt", b"root:x:0", {}, "passwd.txt is not a known chat export"),
    "option": ("--help", b"{", {}, "--help:1"),
    "long name": ("長" * 250 + ".csv", b"a,a\n1,2\n", {}, ".csv:1: the header cannot be read: a column occurs twice"),
    "broken zip": ("chat.zip", b"PK\3\4broken", {}, "chat.zip is not a known chat export"),
    "zip without a chat": ("chat.zip", zipped("a.jpg", b"1"), {}, "chat.zip"),
    "zip bomb": (
        "chat.zip", zipped("_chat.txt", b"[01/01/2021, 10:00:00] Ann: Hello\n" + b"a\n" * 2**26), {},
        "chat.zip/_chat.txt: it has more than 64 MiB of text, the limit for its size",
    ),
    "bomb of JSON": (
        "result.json.gz", gzip.compress(b"[" + b" " * 2**27, mtime=0), {},
        "result.json.gz: it has more than 64 MiB of text",
    ),
    "bad row": ("talks.jsonl", lines(TALK) + b'{"turns": 1}\n', {}, 'talks.jsonl:2: turns must be a list of strings'),
    "silent speaker": ("chat.txt", chat(), {"me": "Bob"}, "nobody is called Bob; there are Ann (20), Will (20)"),
    "odd speaker": ("chat.txt", chat(), {"me": "--\n🙂"}, "nobody is called --"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_cannot_be_imported_says_why(tuning: Tuning) -> None:
    """As the terminal does, with the client's name of the file, and without a path of the server."""
    ids = {
        case: begin(tuning, upload(tuning, content, name), **options)["id"]
        for case, (name, content, options, _) in REFUSED.items()
    }
    under_way = ("importing", "checking")
    wait_until(lambda: all(state(tuning, id)["status"] not in under_way for id in ids.values()), 240)
    for case, (*_, message) in REFUSED.items():
        failed = state(tuning, ids[case])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "import_failed"), (case, failed["error"])
        missing = [part for part in message.split("|") if part not in failed["error"]["message"]]
        assert not missing, (case, failed["error"]["message"])
        shown = json.dumps(failed)
        assert str(tuning.service._folder) not in shown, case
        assert "unnamed-file" not in shown, case
        assert failed["training_file"] is None, case
        folder = tuning.service.preparations._store.path(failed["id"])
        assert not {"input", "data"} & {path.name for path in folder.iterdir()}, case


@pytest.mark.slow
def test_zips_preferences_and_several_files_are_imported(tuning: Tuning) -> None:
    archive = upload(tuning, zipped("WhatsApp Chat with Ann.txt", chat()), "WhatsApp Chat with Ann.zip")
    again = upload(tuning, chat(10, others=("Zoë", "Ida")), "chat.txt")
    asked = [{"input": {"messages": [{"role": "user", "content": f"Is {number} even?"}]}} for number in range(9)]
    pairs = upload(tuning, lines(*(PAIR | one for one in asked)), "pairs.jsonl")
    ready = prepare(tuning, archive, again, me="Will", merge_others=True)
    assert (ready["status"], ready["filenames"]) == ("ready", ["WhatsApp Chat with Ann.zip", "chat.txt"])
    speakers = {speaker["name"]: speaker["turns"] for speaker in ready["speakers"]}
    assert speakers == {"Will": 30, "Ann": 20, "Zoë": 5, "Ida": 5}
    train = content(tuning, ready["training_file"])
    assert {speaker for one in train for speaker in one["speakers"]} == {"user", "assistant"}
    judged = prepare(tuning, pairs)  # its assistant is learned without asking
    assert judged["status"] == "ready"
    notes = " ".join(judged["summary"]["notes"])
    assert "judgements in 9 rows (first: pairs.jsonl:1): only good responses are kept" in notes
    assert "upload the file with the purpose fine-tune, and create a job with the method dpo" in notes


@pytest.mark.slow
def test_rows_that_cannot_be_read_are_left_out_if_wanted(tuning: Tuning) -> None:
    talks = [{"turns": [f"Is it {n} o'clock?", f"No, it is {n + 1}."]} for n in range(4)]
    file = upload(tuning, lines(*talks) + b"{\n", "talks.jsonl")
    again = upload(tuning, lines({"turns": ["Is this read?", "It is."]}) + b"[\n", "talks.jsonl")
    ready = prepare(tuning, file, again, on_error="skip", redact=True)
    assert (ready["status"], ready["summary"]["problems"]) == ("ready", 2)
    first, second = ready["summary"]["first_problems"]
    assert first.startswith("talks.jsonl:5:")
    assert second.startswith("talks.jsonl (2):2:")


@pytest.mark.slow
def test_a_single_conversation_is_trained_on_alone(tuning: Tuning) -> None:
    ready = prepare(tuning, upload(tuning, chat(1)), me="Will")
    assert (ready["status"], ready["summary"]["written"]) == ("ready", {"train.jsonl": 1})
    assert ready["validation_file"] is None
    assert len(content(tuning, ready["training_file"])) == 1


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"files": []}, "files", "at least 1 item"),
    ({"files": ["file-none"]}, "files", "there is no file file-none: upload it first"),
    ({"files": ["CHAT", "CHAT"]}, "files", "names one file twice"),
    ({"files": ["RESULTS"]}, "files", "has the metrics of a job, and no conversations: leave it out"),
    ({"files": ["CHAT"] * 101}, "files", "at most 100 items"),
    ({"files": "CHAT"}, "files", "valid list"),
    ({"model": "gpt-4"}, "model", "there is no model gpt-4 to fine-tune, only tiny"),
    ({"model": 1}, "model", "valid string"),
    ({"me": ""}, "me", "at least 1 character"),
    ({"me": "A\0"}, "me", "match pattern"),
    ({"me": "A" * 3000}, "me", "at most 2000"),
    ({"merge_others": True}, "merge_others", "merge_others needs the speaker to learn: send me too"),
    ({"merge_others": "yes", "me": "Will"}, "merge_others", "valid boolean"),
    ({"on_error": "ignore"}, "on_error", "'fail' or 'skip'"),
    ({"split": "1,0,0"}, "split", "split is not supported here: leave it out"),
]


@pytest.mark.parametrize(("fields", "param", "message"), BAD)
def test_preparations_are_checked_before_they_are_created(
    tuning: Tuning, fields: dict[str, Any], param: str, message: str
) -> None:
    ids = {"CHAT": upload(tuning, chat()), "RESULTS": tuning.service.files.add("r.csv", "fine-tune-results", b"1").id}
    count = len(tuning.service.preparations.all())
    body = {"files": ["CHAT"], "model": "tiny"} | fields
    if isinstance(body["files"], list):
        body["files"] = [ids.get(file, file) for file in body["files"]]
    answer = tuning.served.post("/train/preparations", **body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert message in answer.error["message"]
    assert len(tuning.service.preparations.all()) == count


def test_what_is_not_training_data_is_not_trained_on(tuning: Tuning) -> None:
    answer = tuning.served.post("/v1/fine_tuning/jobs", model="tiny", training_file=upload(tuning, chat()))
    assert (answer.status, answer.error["code"]) == (400, "invalid_file_purpose")
    assert "has the purpose user_data: prepare it first" in answer.error["message"]


@pytest.mark.slow
def test_the_routes_need_the_key_and_take_nothing_of_other_sites(tune: Tune) -> None:
    with tune({"api_keys": ["key"]}) as tuning:
        file = upload(tuning, chat())
        for method, path in (
            ("GET", "/train/preparations"), ("POST", "/train/preparations"), ("GET", "/train/preparations/prep-1"),
            ("DELETE", "/train/preparations/prep-1"), ("GET", "/train/jobs"), ("GET", "/train/jobs/ftjob-1"),
        ):  # fmt: skip
            body = {"files": [file], "model": "tiny"} if method == "POST" else None
            assert tuning.served.ask(method, path, body, {"Authorization": ""}).status == 401
        parts = multipart(("purpose", None, b"user_data"), ("file", "chat.txt", b"a"))
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = tuning.served.ask("POST", "/v1/files", parts, FORM | headers)
            assert (answer.status, answer.error["code"]) == (403, "origin")
        for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
            answer = tuning.served.ask("POST", "/train/preparations", b"{}", {"Content-Type": kind})
            assert answer.status == 415
        assert tuning.service.preparations.all() == []
        facts = tuning.served.get("/v1/models/tiny").json["convmodel"]
        assert (facts["fine_tuning"], facts["training"]) == (True, False)


@pytest.mark.long
def test_there_are_at_most_so_many_preparations(tune: Tune) -> None:
    with tune(limits=TrainingLimits(preparations=2), hang=60) as tuning:
        file, empty = upload(tuning, chat()), upload(tuning, b"", "empty.jsonl")
        assert prepare(tuning, empty)["status"] == "failed"
        second, third = (begin(tuning, file, me="Will")["id"] for _ in range(2))  # their checks hang
        listed = tuning.served.get("/train/preparations").json["data"]
        assert [one["id"] for one in listed] == [third, second]  # the oldest that has ended is gone
        answer = tuning.served.post("/train/preparations", files=[file], model="tiny")
        assert (answer.status, answer.error["code"]) == (429, "too_many_preparations")
        assert "there are 2 preparations under way" in answer.error["message"]


def test_a_full_disk_prepares_nothing(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    file, count = upload(tuning, chat()), len(tuning.service.preparations.all())

    def full(path: Path, text: str) -> None:
        raise SaveError("no room") from OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("convmodel.server.fine_tuning.record_folder.replace_text", full)
        answer = tuning.served.post("/train/preparations", files=[file], model="tiny")
        assert (answer.status, answer.error["code"]) == (507, "storage_full")
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tuning.service._folder)._replace(free=100)
        patch.setattr("convmodel.server.fine_tuning.preparations.shutil.disk_usage", lambda folder: usage)
        answer = tuning.served.post("/train/preparations", files=[file], model="tiny")
        assert (answer.status, answer.error["code"]) == (507, "storage_full")
        assert "too little room to prepare these files" in answer.error["message"]
    assert len(tuning.service.preparations.all()) == count


@pytest.mark.slow
def test_files_that_were_made_count_against_the_quota(tune: Tune) -> None:
    with tune(limits=TrainingLimits(files=2), talks=9) as tuning:
        failed = prepare(tuning, upload(tuning, chat()), me="Will")
        assert (failed["status"], failed["error"]["code"]) == ("failed", "storage_full")
        assert failed["error"]["message"] == "there are 2 files, which is the limit: delete some"
        assert [file.purpose for file in tuning.client.files.list()] == ["user_data"]  # none of a failed preparation


@pytest.mark.slow
def test_a_deleted_file_takes_its_preparations_along(tune: Tune) -> None:
    with tune(talks=9, steps=5000, pause=0.05) as tuning:
        file = upload(tuning, chat())
        used, unused = (prepare(tuning, file, me="Will") for _ in range(2))
        job = tuning.client.fine_tuning.jobs.create(
            model="tiny", training_file=used["training_file"], validation_file=used["validation_file"]
        )
        assert tuning.served.ask("DELETE", f"/v1/files/{used['validation_file']}").error["code"] == "file_in_use"
        assert tuning.served.ask("DELETE", f"/v1/files/{file}").status == 200
        assert tuning.served.get("/train/preparations").json["data"] == []
        left = {one.id for one in tuning.client.files.list()}
        assert left == {used["training_file"], used["validation_file"]}  # the job needs them
        assert tuning.status(job.id) not in ("failed", "cancelled")
        store = tuning.service.preparations._store
        assert not store.path(unused["id"]).exists()

        third = prepare(tuning, upload(tuning, chat()), me="Will")
        assert tuning.served.ask("DELETE", f"/v1/files/{third['training_file']}").status == 200
        assert tuning.served.get(f"/train/preparations/{third['id']}").status == 404
        assert tuning.service.files.has(third["validation_file"])


@pytest.mark.long
def test_a_preparation_starts_again_with_the_server(tune: Tune) -> None:
    with tune(hang=60) as tuning:
        file = upload(tuning, chat())
        ready = begin(tuning, file, me="Will")["id"]
        wait_until(lambda: tuning.service.preparations.get(ready).pid)
        process = tuning.service.preparations.get(ready).pid
    assert not exists(process)  # a server that is stopped stops its preparations, too
    with tune(hang=60) as tuning:
        wait_until(lambda: tuning.service.preparations.get(ready).pid not in (0, process))
        assert state(tuning, ready)["status"] == "importing"
        again = tuning.service.preparations.get(ready).pid
        tuning.service.preparations._queue._processes.clear()  # as if the server were killed
    assert exists(again)
    with tune(talks=9) as tuning:
        wait_until(lambda: state(tuning, ready)["status"] == "ready", 90)
        assert not exists(again)
        whole = state(tuning, ready)
    with tune(talks=9) as tuning:
        assert state(tuning, ready) == whole
        assert tuning.client.files.retrieve(whole["training_file"]).purpose == "fine-tune"


@pytest.mark.slow
def test_a_check_that_fails_says_why(tune: Tune) -> None:
    with tune(talks=9, refuse="the tokens of this model cannot be read") as tuning:
        failed = prepare(tuning, upload(tuning, chat()), me="Will")
        assert (failed["status"], failed["error"]["code"]) == ("failed", "check_failed")
        message = "WhatsApp Chat with Ann.train.jsonl:4: the tokens of this model cannot be read"
        assert failed["error"]["message"] == message


@pytest.mark.slow
def test_a_finding_that_makes_training_pointless_is_named(tune: Tune) -> None:
    with tune(talks=9, finding="fail") as tuning:
        ready = prepare(tuning, upload(tuning, chat()), me="Will")
        assert (ready["status"], ready["blocking"]) == ("ready", "steps: 3 steps are few; raise epochs")


@pytest.mark.slow
def test_a_killed_process_fails_its_preparation_and_not_the_server(tune: Tune) -> None:
    with tune(hang=60) as tuning:
        id = begin(tuning, upload(tuning, chat()))["id"]
        wait_until(lambda: tuning.service.preparations.get(id).pid)
        os.kill(tuning.service.preparations.get(id).pid, signal.SIGKILL)
        wait_until(lambda: state(tuning, id)["status"] == "failed")
        error = state(tuning, id)["error"]
        assert error["code"] == "process_killed"
        assert "is there too little memory?" in error["message"]


@pytest.mark.slow
def test_too_many_speakers_to_show_are_refused(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_command, "LARGEST_RESULT", 100)
    failed = prepare(tuning, upload(tuning, chat()))
    assert failed["error"]["message"].startswith("the summary has too many names of speakers to be shown: import it")


@pytest.mark.slow
def test_an_unexpected_error_ends_its_preparation_and_not_the_queue(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "convmodel.server.fine_tuning.import_command.import_command", lambda *_, **__: ["/no/such/program"]
        )
        failed = prepare(tuning, upload(tuning, chat()))
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert "the preparation cannot be started" in failed["error"]["message"]
    assert prepare(tuning, upload(tuning, chat(), "secret.txt"), me="Bob")["status"] == "failed"
    assert "Will (20)" not in caplog.text  # the log has no text of conversations


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_chat_export_becomes_a_model_that_chats(tmp_path: Path) -> None:
    """From an export to a chat with the built-in model, with the programs that people run."""
    arguments = ["builtin:chitchat", "--train", "tuned"]
    with program(tmp_path, *arguments) as served, OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        wait_until(served.ready, 120)
        file = client.files.create(file=("WhatsApp Chat with Ann.txt", chat(40)), purpose="user_data")
        ids = [
            served.post("/train/preparations", files=[file.id], model="chitchat", me=me).json["id"]
            for me in (None, "Will")
        ]

        def prepared() -> list[Any]:
            return [served.get(f"/train/preparations/{id}").json for id in ids]

        wait_until(lambda: [one["status"] for one in prepared()] in (["needs_speaker", "ready"], ["failed"]), 300)
        asked, ready = prepared()
        assert [speaker["name"] for speaker in asked["speakers"]] == ["Ann", "Will"]
        assert {check["status"] for check in ready["checks"]} <= {"pass", "warn"}
        assert ready["blocking"] == ""
        keys = {"steps", "tokens", "padded_tokens", "seconds", "memory_bytes", "activation_bytes", "available_bytes"}
        assert ready["estimate"].keys() == keys | {"at_most", "parameters", "weight_bytes"}
        assert ready["estimate"]["seconds"] > 0
        job = client.fine_tuning.jobs.create(
            model="chitchat", training_file=ready["training_file"], validation_file=ready["validation_file"],
            suffix="will", hyperparameters={"n_epochs": 1},
        )  # fmt: skip
        view: Any = {}

        def ended() -> bool:
            view.update(served.get(f"/train/jobs/{job.id}").json)
            return view["job"]["status"] in ("succeeded", "failed")

        wait_until(ended, 300)
        assert view["job"]["status"] == "succeeded", view["job"]["error"]
        assert view["model"] == f"ft:chitchat:will:{job.id[-8:]}"
        assert view["step"] == view["total_steps"] > 0
        assert "alidation perplexity" in view["verdict"]
        assert view["valid"][-1][0] == view["step"]
        assert {check["name"] for check in view["checks"]} <= {check["name"] for check in ready["checks"]}
        first = view["samples"][0]
        assert first["context"][-1]["role"] == "user"
        assert first["expected"].startswith("No, ")
        assert len([sample for sample in view["samples"] if sample["step"] == first["step"]]) == 3
        answer = client.chat.completions.create(model=view["model"], messages=HELLO)  # type: ignore[arg-type]
        assert answer.choices[0].message.content
        assert served.end() == 0
