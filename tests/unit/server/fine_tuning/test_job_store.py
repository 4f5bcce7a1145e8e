"""The files of jobs: what a restarted server reads, and what it does if they are damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convmodel.errors import ConfigError, SaveError
from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning.job_store import JobSpec, JobStore
from convmodel.training.resume.run_folder import newest_step

SPEC = JobSpec("tiny", "tiny", "/models/tiny", "file-1", "supervised", {"n_epochs": 3}, 42)


def test_a_job_is_read_again_as_it_was(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs")
    job = store.create(replace(SPEC, suffix="kind", metadata={"a": "b"}))
    assert job.model_name == f"ft:tiny:kind:{job.id[-8:]}"
    changed = store.change(job.id, status="running", pid=7)
    store.report(job.id, "It runs", "warn", {"step": 1})
    again = JobStore(tmp_path / "jobs")
    assert again.all() == [changed]
    (event,) = again.events(job.id)
    assert (event["message"], event["level"], event["data"]) == ("It runs", "warn", {"step": 1})


def test_a_torn_event_is_left_out(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.create(SPEC)
    store.report(job.id, "one")
    with (store.path(job.id) / "events.jsonl").open("a") as file:
        file.write('{"id": "ftev')
    store.report(job.id, "two")
    assert [event["message"] for event in store.events(job.id)] == ["one", "two"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"spec": {}}', "STATUS", "ID"])
def test_a_damaged_record_is_reported(tmp_path: Path, text: str) -> None:
    job = JobStore(tmp_path).create(SPEC)
    path = tmp_path / job.id / "job.json"
    whole = path.read_text()
    texts = {"STATUS": whole.replace("queued", "waiting"), "ID": whole.replace(job.id, "ftjob-other")}
    path.write_text(texts.get(text, text))
    with pytest.raises(ConfigError, match=r"job.json is damaged: restore it, or remove .* to drop the fine-tuning job"):
        JobStore(tmp_path)


def test_an_event_that_cannot_be_written_is_logged_without_its_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = JobStore(tmp_path)
    job = store.create(SPEC)
    (store.path(job.id) / "events.jsonl").mkdir()
    store.report(job.id, 'The job failed: talks.jsonl:1: "a SECRET"', "error")
    assert f"an event of {job.id} is not recorded" in caplog.text
    assert "SECRET" not in caplog.text


def test_what_cannot_be_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path)
    job = store.create(SPEC)

    def full(path: Path, text: str) -> None:
        json.loads(text)
        raise SaveError("no room")

    monkeypatch.setattr("convmodel.server.fine_tuning.record_folder.replace_text", full)
    with pytest.raises(SaveError):
        store.create(SPEC)
    with pytest.raises(SaveError):
        store.change(job.id, status="failed")
    assert store.all() == [job]
    assert [path.name for path in tmp_path.iterdir()] == [job.id]
    assert store.force(job.id, status="failed").status == store.get(job.id).status == "failed"
    assert JobStore(tmp_path).get(job.id).status == "queued"  # which a restarted server finds out again
    with pytest.raises(ApiError, match="there is no fine-tuning job"):
        store.get("ftjob-none")
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"):
        JobStore(tmp_path / "file")


def test_metrics_stay_when_a_model_is_dropped(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.create(SPEC)
    (store.model(job.id) / "checkpoint-12").mkdir(parents=True)
    (store.model(job.id) / "checkpoint-9").mkdir()
    (store.model(job.id) / "metrics.jsonl").write_text("{}")
    assert newest_step(store.model(job.id)) == 12
    assert store.metrics(job.id).parent == store.model(job.id)
    store.drop_model(job.id)
    store.drop_model(job.id)
    assert not store.model(job.id).exists()
    assert store.metrics(job.id).read_text() == "{}"
    assert newest_step(store.model(job.id)) == 0
