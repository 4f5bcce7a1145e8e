"""`/train` over HTTP: the real import; a stand-in checks and trains, but for the tests marked slow."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fine_tuning_service import Tune, Tuning, lines, make_tune
from serving import wait_until

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
        sample = {"step": 7, "context": [{"role": "user", "content": "Hello"}], "expected": "Hi", "response": "Ho"}
        with (tuning.service._jobs.model(job.id) / "samples.jsonl").open("ab") as lines_of_samples:
            lines_of_samples.write(lines(sample) + b'{"step": 8, "con')
        assert tuning.served.get(f"/train/jobs/{job.id}").json["samples"] == [sample]
        assert tuning.served.get("/train/jobs/ftjob-none").error["code"] == "fine_tune_not_found"


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


def test_a_preparation_that_takes_too_long_ends(tune: Tune) -> None:
    with tune(limits=TrainingLimits(preparation_seconds=0.5), hang=60) as tuning:
        failed = prepare(tuning, upload(tuning, chat()))
        assert (failed["status"], failed["error"]["code"]) == ("failed", "time_limit")
        assert failed["error"]["message"].startswith("it was not done within 0.5 s: split the files")
