"""`/v1/fine_tuning/jobs` over HTTP, with OpenAI's client; a stand-in trains, but for the tests marked slow."""

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import openai
import pytest
from fake_convmodel import command
from fine_tuning_service import PAIR, TALK, Tune, Tuning, exists, lines, make_tune, soon
from openai import OpenAI
from serving import HELLO, Program, program, wait_until

from convmodel.errors import SaveError
from convmodel.files.hub import sample_file
from convmodel.server.fine_tuning import record_folder
from convmodel.server.fine_tuning.commands import COMMAND
from convmodel.server.fine_tuning.file_store import FileStore
from convmodel.server.fine_tuning.job_order import Order
from convmodel.server.fine_tuning.service import FineTuning
from convmodel.server.serving.background_process import BackgroundProcess
from convmodel.server.settings import TrainingLimits
from convmodel.training.improvement import SETTINGS
from convmodel.training.resume.run_folder import newest_step

pytestmark = pytest.mark.loopback


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


def pid(tuning: Tuning, id: str) -> int:
    return tuning.service.job(id).pid


def test_a_job_makes_a_model_that_the_server_serves(tune: Tune, model_folder: Path, tmp_path: Path) -> None:
    with tune(give=model_folder, steps=3) as tuning:
        client, file, valid = tuning.client, tuning.upload(), tuning.upload()
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=file,
            validation_file=valid,
            suffix="kind",
            seed=7,
            metadata={"who": "me"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
        )
        assert (job.object, job.status, job.model, job.fine_tuned_model) == ("fine_tuning.job", "queued", "tiny", None)
        assert (job.seed, job.metadata, job.training_file, job.validation_file) == (7, {"who": "me"}, file, valid)
        assert job.hyperparameters.n_epochs == 2
        assert job.hyperparameters.batch_size == "auto"
        job = tuning.wait(job.id, "succeeded")
        assert job.fine_tuned_model == f"ft:tiny:kind:{job.id[-8:]}"
        assert (job.trained_tokens, job.error) == (300, None)
        assert job.finished_at is not None
        assert job.finished_at >= job.created_at

        arguments = json.loads((tmp_path / f"tuned/jobs/{job.id}/model/arguments.json").read_text())
        given = dict(pairwise(arguments))
        assert given["--valid"].endswith(f"{valid}.jsonl")
        assert (given["--epochs"], given["--seed"]) == ("2", "7")
        assert "--batch-size" not in given
        assert (given["--loss-on"], float(given["--learning-rate"])) == ("assistant", 5e-5)

        messages = tuning.messages(job.id)
        assert messages[0] == f"Created fine-tuning job: {job.id}"
        assert "steps: 3 steps are few; raise epochs" in messages
        assert "Step 3: validation loss 3.0500" in messages
        created = f"New fine-tuned model created: {job.fine_tuned_model}"
        assert messages[-2:] == [created, "The job has successfully completed"]
        events = [*client.fine_tuning.jobs.list_events(job.id, limit=2)]  # of several pages
        assert len(events) == len(messages) == len({event.id for event in events})
        metrics = [event for event in events if event.type == "metrics"]
        assert metrics[-1].data == {"step": 1, "train_loss": 3.0}
        assert [event.level for event in events if event.message.startswith("steps")] == ["warn"]

        result = client.files.retrieve(job.result_files[0])
        assert (result.purpose, result.filename) == ("fine-tune-results", "step_metrics.csv")
        rows = client.files.content(result.id).text.splitlines()
        assert rows == [
            "step,train_loss,valid_loss,valid_perplexity",
            "1,3.0,,",
            "2,2.5,,",
            "3,2.3333333333333335,3.05,21.0",
        ]

        name = job.fine_tuned_model
        (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
        assert (checkpoint.fine_tuned_model_checkpoint, checkpoint.fine_tuning_job_id) == (name, job.id)
        assert (checkpoint.step_number, checkpoint.metrics.valid_loss) == (3, 3.05)
        assert [model.id for model in client.models.list()] == ["tiny", name]
        assert not tuning.service.shelf.is_loaded(name)
        chat: Any = {"messages": HELLO, "temperature": 0, "max_tokens": 8}
        answer = client.chat.completions.create(model=name, **chat).choices[0].message.content
        assert (answer, tuning.service.shelf.is_loaded(name)) == ("How are you", True)
        assert answer != client.chat.completions.create(model="tiny", **chat).choices[0].message.content
        assert client.models.retrieve(name).id == name
    with tune() as tuning:
        assert [model.id for model in tuning.client.models.list()] == ["tiny", name]
        assert tuning.client.chat.completions.create(model=name, **chat).choices[0].message.content == answer
        assert tuning.client.fine_tuning.jobs.retrieve(job.id) == job
        assert tuning.messages(job.id) == messages


def test_preferences_are_learned_with_dpo(tuning: Tuning) -> None:
    file = tuning.upload(lines(PAIR, times=10))
    options: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5, "learning_rate_multiplier": 0.1}}}
    job = tuning.train(training_file=file, method=options)
    assert job.status == "succeeded"
    assert job.fine_tuned_model == f"ft:tiny::{job.id[-8:]}"
    assert job.method.dpo.hyperparameters.beta == 0.5
    folder = tuning.service._jobs.model(job.id)
    arguments = json.loads((folder / "arguments.json").read_text())
    given = dict(pairwise(arguments))
    assert (given["--objective"], given["--beta"]) == ("dpo", "0.5")
    assert float(given["--learning-rate"]) == pytest.approx(0.1 * SETTINGS["learning_rate"])
    assert {"--lora", "--merge"} < {*arguments}
    check = json.loads((folder.parent / "check.json").read_text())["arguments"]
    assert check[2:4] == ["--format", "judgements"]


@pytest.mark.slow
def test_jobs_run_in_order_and_one_at_a_time(tune: Tune) -> None:
    with tune(steps=5000, pause=0.05) as tuning:
        file = tuning.upload()
        jobs = [
            tuning.client.fine_tuning.jobs.create(model="tiny", training_file=file, suffix="same").id for _ in range(3)
        ]
        assert [job.id for job in tuning.client.fine_tuning.jobs.list(limit=2)] == jobs[::-1]
        tuning.wait(jobs[0], "running")
        soon()
        assert [tuning.status(id) for id in jobs] == ["running", "queued", "queued"]
        assert tuning.client.fine_tuning.jobs.cancel(jobs[1]).status == "cancelled"
        assert tuning.client.fine_tuning.jobs.cancel(jobs[0]).status == "cancelled"
        tuning.wait(jobs[2], "running")
        assert [tuning.status(id) for id in jobs] == ["cancelled", "cancelled", "running"]
        wait_until(lambda: not tuning.service._jobs.model(jobs[0]).exists())  # its checkpoints are gone
        assert "Step 1: training loss 3.0000" in tuning.messages(jobs[0])  # its metrics are not
        for id in jobs[:2]:
            with pytest.raises(openai.ConflictError, match=f"{id} is cancelled, so it cannot be cancelled"):
                tuning.client.fine_tuning.jobs.cancel(id)


@pytest.mark.slow
def test_two_jobs_may_run_at_once(tune: Tune) -> None:
    with tune(limits=TrainingLimits(at_once=2), steps=5000, pause=0.05) as tuning:
        file = tuning.upload()
        jobs = [tuning.client.fine_tuning.jobs.create(model="tiny", training_file=file).id for _ in range(2)]
        wait_until(lambda: [tuning.status(id) for id in jobs] == ["running", "running"])


@pytest.mark.long
def test_a_paused_job_resumes_where_it_was(tune: Tune) -> None:
    with tune(steps=30, pause=0.4) as tuning:
        jobs = tuning.client.fine_tuning.jobs
        job = jobs.create(model="tiny", training_file=tuning.upload())
        with pytest.raises(openai.ConflictError, match="so it cannot be resumed"):
            jobs.resume(job.id)
        wait_until(lambda: tuning.step(job.id) > 2)
        assert jobs.pause(job.id).status == "paused"
        with pytest.raises(openai.ConflictError, match="is paused, so it cannot be paused"):
            jobs.pause(job.id)
        wait_until(lambda: not tuning.service._queue._processes)
        done = tuning.step(job.id)
        soon()
        assert tuning.step(job.id) == done < 30
    with tune(steps=30, pause=0.01) as tuning:
        soon()
        assert tuning.status(job.id) == "paused"
        tuning.client.fine_tuning.jobs.resume(job.id)
        assert tuning.wait(job.id, "succeeded").trained_tokens == 3000
        losses = [message for message in tuning.messages(job.id) if "training loss" in message]
        assert len(losses) == 30  # none was trained twice
        assert tuning.messages(job.id).count("separator: it is a token") == 1


@pytest.mark.slow
def test_a_paused_job_can_be_cancelled(tune: Tune) -> None:
    with tune(steps=5000, pause=0.05) as tuning:
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=tuning.upload())
        wait_until(lambda: tuning.step(job.id) > 2)
        tuning.client.fine_tuning.jobs.pause(job.id)
        wait_until(lambda: not tuning.service._queue._taken)
        tuning.client.fine_tuning.jobs.cancel(job.id)
        assert not tuning.service._jobs.model(job.id).exists()


@pytest.mark.slow
def test_what_a_killed_server_could_not_remove_is_removed_by_the_next_one(tune: Tune) -> None:
    with tune() as tuning:
        done = tuning.train()
        tuning.client.models.delete(done.fine_tuned_model)
        tuning.service._queue.close()
        cancelled = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=done.training_file)
        tuning.client.fine_tuning.jobs.cancel(cancelled.id)
        folders = [tuning.service._jobs.model(job.id) for job in (done, cancelled)]
        for folder in folders:
            (folder / "checkpoint-1").mkdir(parents=True)
    with tune() as tuning:
        wait_until(lambda: not any(folder.exists() for folder in folders))


@pytest.mark.slow
def test_what_a_killed_server_could_not_stop_is_stopped_by_the_next_one(tune: Tune, tmp_path: Path) -> None:
    with tune(steps=5000, pause=0.05) as tuning:
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=tuning.upload())
        wait_until(lambda: tuning.step(job.id) > 2)
        tuning.client.fine_tuning.jobs.pause(job.id)
        wait_until(lambda: not tuning.service._queue._taken)
    # As if the server had been killed before it could stop the process.
    folder = tmp_path / f"tuned/jobs/{job.id}"
    left = BackgroundProcess(folder / "log")
    data = str(tmp_path / f"tuned/files/{job.training_file}.jsonl")
    line = [*command(steps=5000, pause=0.05), "fit", data, "--model", "tiny", "--output-dir", str(folder / "model")]
    step = newest_step(folder / "model")
    left.start([*line, "--json"])
    wait_until(lambda: newest_step(folder / "model") > step)
    record = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps(record | {"pid": left.pid}))
    with tune() as tuning:
        wait_until(lambda: not left.running)
        assert tuning.status(job.id) == "paused"


@pytest.mark.slow
def test_jobs_that_wait_keep_their_order_after_a_restart(tune: Tune) -> None:
    """One that was resumed is behind those that waited meanwhile."""
    with tune() as tuning:
        tuning.service._queue.close()
        jobs, file = tuning.client.fine_tuning.jobs, tuning.upload()
        ids = [jobs.create(model="tiny", training_file=file).id for _ in range(5)]
        jobs.pause(ids[0])
        jobs.resume(ids[0])
    with tune() as tuning:
        assert [job.id for job in tuning.service.jobs()] == ids
        for id in ids:
            tuning.wait(id, "succeeded")
        ends = [job.finished_at for job in map(tuning.service.job, [*ids[1:], ids[0]])]
        assert ends == sorted(ends)
        begins = [tuning.service._jobs.events(id)[-1]["time"] for id in [*ids[1:], ids[0]]]
        assert begins == sorted(begins)


@pytest.mark.slow
def test_a_full_disk_keeps_no_job_from_being_cancelled(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cancelled job leaves is what makes room."""
    with tune(steps=5000, pause=0.05) as tuning:
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=tuning.upload())
        wait_until(lambda: tuning.step(job.id) > 2)
        folder = tuning.service._jobs.model(job.id)
        replace_text = record_folder.replace_text

        def full(path: Path, text: str) -> None:
            if folder.exists():
                raise SaveError("no room")
            replace_text(path, text)

        monkeypatch.setattr(record_folder, "replace_text", full)
        assert tuning.client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        wait_until(lambda: json.loads((folder.parent / "job.json").read_text())["status"] == "cancelled")


@pytest.mark.long
def test_a_killed_process_is_started_again_and_resumes(tune: Tune) -> None:
    with tune(steps=40, pause=0.2) as tuning:
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=tuning.upload())
        for _ in range(3):
            step = tuning.step(job.id)
            wait_until(lambda at_least=step: tuning.step(job.id) > at_least + 2)
            os.kill(pid(tuning, job.id), signal.SIGKILL)
        assert tuning.wait(job.id, "succeeded").trained_tokens == 4000
        messages = tuning.messages(job.id)
        assert sum("was killed, and is started again from step" in message for message in messages) == 3
        assert sum("training loss" in message for message in messages) == 40


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_without_progress_fails(tune: Tune) -> None:
    with tune(die=signal.SIGKILL) as tuning:
        job = tuning.train()
        assert (job.status, job.error.code) == ("failed", "training_killed")
        assert "killed 6 times without progress (exit code -9): is there too little memory?" in job.error.message


@pytest.mark.slow
def test_a_stopped_server_stops_its_job_and_the_next_one_resumes_it(tune: Tune) -> None:
    with tune(steps=5000, pause=0.4) as tuning:  # less than 20 of them, however slow the machine is
        running = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=tuning.upload())
        waiting = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=running.training_file)
        wait_until(lambda: tuning.step(running.id) > 2)
        process = pid(tuning, running.id)
    wait_until(lambda: not exists(process))
    with tune(steps=20, pause=0.01) as tuning:
        tuning.wait(running.id, "succeeded")
        tuning.wait(waiting.id, "succeeded")
        losses = [message for message in tuning.messages(running.id) if "training loss" in message]
        assert len(losses) == 20


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_leaves_no_checkpoints(tune: Tune, caplog: pytest.LogCaptureFixture) -> None:
    with tune(fail="No space left on device; choose another folder") as tuning:
        job = tuning.train()
        assert (job.status, job.error.code, job.error.param) == ("failed", "training_failed", None)
        assert job.error.message == f"convmodel: {job.training_file}: No space left on device; choose another folder"
        assert job.fine_tuned_model is None
        assert not tuning.service._jobs.model(job.id).exists()
        assert tuning.messages(job.id)[-1] == f"The job failed: {job.error.message}"
        assert "Step 3: training loss 2.3333" in tuning.messages(job.id)
        assert f"{job.id} failed (training_failed); its log is {tuning.service._jobs.log(job.id)}" in caplog.text
        assert "No space left" not in caplog.text  # an error may quote the data, and the server's log has none of it


@pytest.mark.slow
def test_a_file_that_cannot_be_read_fails_the_check(tune: Tune) -> None:
    with tune(refuse='"messages" is not a list; see docs/data.md') as tuning:
        job = tuning.train()
        assert (job.status, job.error.code, job.error.param) == ("failed", "invalid_training_file", "training_file")
        assert job.error.message == f'convmodel: {job.training_file}:4: "messages" is not a list; see docs/data.md'


@pytest.mark.slow
def test_a_finding_that_makes_training_pointless_fails_the_job(tune: Tune) -> None:
    with tune(finding="fail") as tuning:
        job = tuning.train()
        assert (job.status, job.error.code) == ("failed", "invalid_training_file")
        assert job.error.message == "steps: 3 steps are few; raise epochs"


@pytest.mark.slow
def test_jobs_that_have_ended_are_not_kept_without_limit(tune: Tune) -> None:
    with tune(limits=TrainingLimits(ended=2), fail="no", steps=1) as tuning:
        file = tuning.upload()
        ids = [tuning.train(training_file=file).id for _ in range(4)]
        assert [job.id for job in tuning.service.jobs()] == ids[1:]  # one of them when the last one was created
        assert {path.name for path in tuning.service._jobs._folder.iterdir()} == {*ids[1:]}
        with pytest.raises(openai.NotFoundError):
            tuning.client.fine_tuning.jobs.retrieve(ids[0])
    with tune(limits=TrainingLimits(ended=1)) as tuning:
        done = tuning.train(training_file=file)
        assert [job.id for job in tuning.service.jobs()] == [ids[-1], done.id]


@pytest.mark.slow
def test_a_job_that_still_stops_is_not_removed(tune: Tune) -> None:
    with tune(limits=TrainingLimits(ended=1), steps=5000, pause=0.05) as tuning:
        jobs, file = tuning.client.fine_tuning.jobs, tuning.upload()
        stopping = jobs.create(model="tiny", training_file=file).id
        tuning.wait(stopping, "running")
        with tuning.service._queue._changed:  # its worker cannot notice the end
            tuning.service.cancel(stopping)
            tuning.service.cancel(tuning.service.create(Order("tiny", file)).id)
            tuning.service.create(Order("tiny", file))
            assert stopping in [job.id for job in tuning.service.jobs()]
        (last,) = [job.id for job in tuning.service.jobs() if job.status == "queued"]
        tuning.wait(last, "running")


@pytest.mark.slow
def test_a_file_in_use_is_kept_until_its_job_ends(tune: Tune) -> None:
    with tune(steps=5000, pause=0.05) as tuning:
        file, valid = tuning.upload(), tuning.upload()
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=file, validation_file=valid)
        for id in (file, valid):
            with pytest.raises(openai.ConflictError, match=f"{id} is needed by {job.id}, which is"):
                tuning.client.files.delete(id)
        tuning.client.fine_tuning.jobs.cancel(job.id)
        for id in (file, valid):
            assert tuning.client.files.delete(id).deleted


@pytest.mark.slow
def test_a_model_of_a_job_is_trained_further_and_deleted(tune: Tune) -> None:
    with tune(limits=TrainingLimits(jobs=2)) as tuning:
        first = tuning.train(suffix="a")
        second = tuning.train(model=first.fine_tuned_model, suffix="b")
        assert second.fine_tuned_model == f"ft:tiny:b:{second.id[-8:]}"
        assert tuning.service.job(second.id).spec.source == str(tuning.service._jobs.model(first.id))
        with pytest.raises(openai.RateLimitError, match="there are 2 jobs that wait, run or keep a model"):
            tuning.train()
        tuning.client.chat.completions.create(model=first.fine_tuned_model, messages=HELLO, max_tokens=2)  # type: ignore[arg-type]
        deleted = tuning.client.models.delete(first.fine_tuned_model)
        assert (deleted.deleted, deleted.id) == (True, first.fine_tuned_model)
        assert not tuning.service._jobs.model(first.id).exists()
        assert tuning.client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model is None
        assert [*tuning.client.fine_tuning.jobs.checkpoints.list(first.id)] == []
        for name in (first.fine_tuned_model, "tiny"):
            with pytest.raises(openai.NotFoundError, match="only those can be deleted"):
                tuning.client.models.delete(name)
        with pytest.raises(openai.NotFoundError, match="there is no model"):
            tuning.client.chat.completions.create(model=first.fine_tuned_model, messages=HELLO)  # type: ignore[arg-type]
        assert tuning.train().status == "succeeded"


BAD: list[tuple[dict[str, Any], str | None, str]] = [
    ({"model": "gpt-4o"}, "model", "there is no model gpt-4o to fine-tune, only tiny"),
    ({"model": ""}, "model", "at least 1 character"),
    ({"model": None}, "model", "required"),
    ({"training_file": "file-none"}, "training_file", "there is no file file-none: upload it first"),
    ({"training_file": "../../etc/passwd"}, "training_file", "there is no file"),
    ({"validation_file": "file-none"}, "validation_file", "there is no file file-none"),
    ({"validation_file": "RESULTS"}, "validation_file", "has the purpose fine-tune-results"),
    ({"training_file": "PAIRS"}, "training_file", "has preferences: the training_file of a supervised job"),
    ({"method": {"type": "dpo"}}, "training_file", "has conversations: the training_file of a dpo job"),
    (
        {"training_file": "PAIRS", "validation_file": "PAIRS", "method": {"type": "dpo"}},
        "validation_file",
        "needs conv",
    ),
    ({"suffix": "a/b"}, "suffix", "match pattern"),
    ({"suffix": "x" * 65}, "suffix", "at most 64"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**32}, "seed", "less than"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "at most 16"),
    ({"metadata": {"a": 1}}, "metadata.a", "valid string"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", "at most 512"),
    ({"integrations": [{"type": "wandb"}]}, "integrations", "is not supported here: leave it out"),
    ({"n_epochs": 3}, "n_epochs", "is not supported here"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "a whole number from 1 to 50, or auto"),
    ({"hyperparameters": {"n_epochs": 2.5}}, "hyperparameters.n_epochs", "a whole number"),
    ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", "or auto"),
    ({"hyperparameters": {"batch_size": True}}, "hyperparameters.batch_size", "from 1 to 256"),
    ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta", "is not supported for supervised, only n_epochs"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier", "0.001 to"),
    ({"method": {"type": "reinforcement"}}, "method.type", "'supervised' or 'dpo'"),
    ({"method": {"type": "supervised", "reinforcement": {}}}, "method.reinforcement", "is not supported here"),
    ({"method": {"type": "supervised", "dpo": {}}}, None, "dpo is for the method dpo"),
    ({"method": {"type": "supervised"}, "hyperparameters": {}}, "hyperparameters", "leave them out"),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"lr": 1}}}},
        "method.supervised.hyperparameters.lr",
        "is not supported for supervised",
    ),
]


@pytest.mark.parametrize(("fields", "param", "message"), BAD)
def test_jobs_are_checked_before_they_are_created(
    tuning: Tuning, fields: dict[str, Any], param: str | None, message: str
) -> None:
    ids = {"PAIRS": tuning.upload(lines(PAIR)), "TALKS": tuning.upload()}
    ids["RESULTS"] = tuning.service.files.add("r.csv", "fine-tune-results", b"step\n").id
    count = len(tuning.service.jobs())
    body = {"model": "tiny", "training_file": "TALKS"} | fields
    body = {name: ids.get(value, value) if isinstance(value, str) else value for name, value in body.items()}
    answer = tuning.served.post("/v1/fine_tuning/jobs", **body)
    assert answer.status == 400
    assert message in answer.error["message"]
    assert param is None or answer.error["param"] == param
    assert len(tuning.service.jobs()) == count


def test_jobs_that_do_not_exist_are_not_found(tuning: Tuning) -> None:
    jobs = tuning.client.fine_tuning.jobs
    for ask in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
        with pytest.raises(openai.NotFoundError, match="there is no fine-tuning job ftjob-none"):
            ask("ftjob-none")
    for id in ("x" * 5000, "%00", "..%2Fjobs"):  # none of which can be, or may be, a part of a path
        for method, end in (("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("POST", "/pause")):
            answer = tuning.served.ask(method, f"/v1/fine_tuning/jobs/{id}{end}")
            assert (answer.status, answer.error["type"]) == (404, "invalid_request_error"), (id, end)
        for method, path in (
            ("GET", "/train/jobs"), ("GET", "/train/preparations"), ("DELETE", "/train/preparations"),
            ("GET", "/v1/files"), ("DELETE", "/v1/files"), ("DELETE", "/v1/models"),
        ):  # fmt: skip
            assert tuning.served.ask(method, f"{path}/{id}").status == 404, (method, path, id)
        assert tuning.served.get(f"/v1/files/{id}/content").status == 404
    for query in ("limit=0", "after=ftjob-none", "metadata[a]=b"):
        assert tuning.served.get(f"/v1/fine_tuning/jobs?{query}").status == 400


def test_a_full_disk_creates_no_job(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    file, count = tuning.upload(), len(tuning.service.jobs())
    with monkeypatch.context() as patch:
        patch.setattr("convmodel.server.fine_tuning.service.missing_room", lambda *_, **__: "a job needs 9 MiB")
        answer = tuning.served.post("/v1/fine_tuning/jobs", model="tiny", training_file=file)
        assert (answer.status, answer.error["message"]) == (507, "a job needs 9 MiB")

    def full(path: Path, text: str) -> None:
        raise SaveError("no room") from OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("convmodel.server.fine_tuning.record_folder.replace_text", full)
        answer = tuning.served.post("/v1/fine_tuning/jobs", model="tiny", training_file=file)
        assert (answer.status, answer.error["code"]) == (507, "storage_full")
    assert len(tuning.service.jobs()) == count == len([*tuning.service._jobs._folder.iterdir()])


@pytest.mark.slow
def test_results_that_cannot_be_saved_lose_no_model(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FileStore, *_: Any, **__: Any) -> None:
        raise SaveError("no room")

    with tune() as tuning, monkeypatch.context() as patch:
        patch.setattr(FileStore, "add", full)
        job = tuning.train()
        assert (job.status, job.result_files) == ("succeeded", [])
        assert "The results cannot be saved: no room" in tuning.messages(job.id)
        assert tuning.served.chat(model=job.fine_tuned_model, max_tokens=2).status == 200


@pytest.mark.slow
def test_an_unexpected_error_ends_its_job_and_not_the_queue(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    with tune() as tuning:
        with monkeypatch.context() as patch:
            patch.setattr("convmodel.server.fine_tuning.commands.fit_command", lambda *_: ["/no/such/program"])
            job = tuning.train()
        assert (job.status, job.error.code) == ("failed", "server_error")
        assert "the job cannot be started" in job.error.message
        assert tuning.train().status == "succeeded"


@pytest.mark.slow
def test_actions_need_no_body_and_are_not_taken_from_other_sites(tune: Tune) -> None:
    """Clients that send no Content-Type look like pages of other sites, whose origin browsers report."""
    with tune(steps=5000, pause=0.05) as tuning:
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=tuning.upload())
        path = f"/v1/fine_tuning/jobs/{job.id}/cancel"
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = tuning.served.ask("POST", path, headers=headers)
            assert (answer.status, answer.error["code"]) == (403, "origin")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert tuning.served.ask("POST", path, headers=form).status == 415
        assert tuning.served.ask("POST", path, b"a", {"Content-Type": ""}).status == 415
        answer = tuning.served.ask("POST", path)
        assert (answer.status, answer.json["status"]) == (200, "cancelled")


@pytest.mark.long
def test_a_model_without_memory_asks_to_wait(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (tuning.train().fine_tuned_model for _ in range(2))
    chat: Any = {"messages": HELLO, "max_tokens": 2}
    assert tuning.served.chat(model=first, max_tokens=2).status == 200
    needs_room: list[str] = ["no memory"] * 2

    def missing_memory(hf_model: Any, *, seconds: float = 5.0) -> str:
        return needs_room.pop() if needs_room else ""

    with monkeypatch.context() as patch:
        patch.setattr("convmodel.server.serving.model_shelf.missing_memory", missing_memory)
        assert tuning.client.chat.completions.create(model=second, **chat).choices
        assert not tuning.service.shelf.is_loaded(first)  # it was not used for longest
        patch.setattr("convmodel.server.serving.model_shelf.missing_memory", lambda *_, **__: "no memory")
        answer = tuning.served.chat(model=first)
        assert (answer.status, answer.error["code"]) == (503, "memory_missing")
        assert answer.headers["retry-after"] == "30"
    assert tuning.served.chat(model=first, max_tokens=2).status == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0", "--insecure-no-auth"], "0.0.0.0 could start training without a key: give --api-key KEY"),
        (
            ["--allowed-host", "*"],
            "any site could start training without a key: give --api-key KEY with --train",
        ),
        (["--layout", "separator"], "--train trains models as they are loaded without --layout: leave --layout out"),
        (["--host", "192.0.2.7", "--api-key", "key"], "cannot listen on 192.0.2.7"),  # with a key it may
        (["--port", "0", "DAMAGED"], "job.json is damaged: restore it, or remove"),
        (["--train-jobs", "3", "OFF"], "--train-jobs is for fine-tuning: give --train DIR with it"),
        (["--allow-training", "tuned", "--feedback", "f.jsonl"], "another server trains in"),
    ],
)
def test_fine_tuning_is_not_allowed_by_accident(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [argument for argument in arguments if not argument.isupper()]
    if "DAMAGED" in arguments:
        Path("tuned/jobs/ftjob-1").mkdir(parents=True)
        Path("tuned/jobs/ftjob-1/job.json").write_text("{")
    folder = [] if "OFF" in arguments else ["--train", "tuned"]
    assert run("serve", "model", *given, *folder) == 1
    shown = capfd.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_the_limits_are_those_of_the_flags(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    services: list[FineTuning] = []

    def serve(registry: Any, listener: Any, fine_tuning: FineTuning) -> None:
        services.append(fine_tuning)
        fine_tuning.close()
        listener.close()

    monkeypatch.setattr("convmodel.server.run.run", serve)
    flags = ["--train-storage", "7", "--train-files", "8", "--train-jobs", "9", "--train-at-once", "2"]
    assert run("serve", "model", "--port", "0", "--train", "tuned", *flags) == 0
    assert services[0]._limits == TrainingLimits(total_bytes=7 * 2**20, files=8, jobs=9, at_once=2)
    assert run("serve", "model", "--port", "0", "--train", "tuned") == 0
    assert services[1]._limits == TrainingLimits()


def sample(folder: Path, count: int) -> Path:
    """The first conversations of the sample, as OpenAI's users have them."""
    path = folder / "sample.jsonl"
    with sample_file("train").open(encoding="utf-8") as file, path.open("w", encoding="utf-8") as out:
        for line in islice(file, count):
            turns = json.loads(line)["turns"][:6]
            messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)]
            out.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.mark.long
@pytest.mark.timeout(300)
def test_openais_client_trains_the_built_in_model_and_chats_with_it(tmp_path: Path) -> None:
    """From a file to a chat, with the programs that people run."""
    arguments = ["builtin:chitchat", "--train", "tuned"]
    with program(tmp_path, *arguments) as served, OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        wait_until(served.ready, 120)
        with sample(tmp_path, 24).open("rb") as content:
            file = client.files.create(file=content, purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="builtin:chitchat",
            training_file=file.id,
            suffix="mine",
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        )
        assert job.status in ("queued", "validating_files", "running")
        while job.status not in ("succeeded", "failed", "cancelled"):
            time.sleep(0.5)
            job = client.fine_tuning.jobs.retrieve(job.id)
        events = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
        assert job.status == "succeeded", events
        assert any(message.startswith("Step 3: training loss") for message in events)
        assert any(message == "used: all 24 conversations are used" for message in events)
        name = job.fine_tuned_model
        assert name == f"ft:chitchat:mine:{job.id[-8:]}"
        rows = client.files.content(job.result_files[0]).text.splitlines()
        assert rows[0].startswith("step,train_loss")
        assert len(rows) == 4
        answer = client.chat.completions.create(model=name, messages=HELLO)  # type: ignore[arg-type]
        assert answer.choices[0].message.content
        assert served.end() == 0


@pytest.mark.long
def test_preferences_of_openai_train_a_real_model(tmp_path: Path, gpt2_folder: Path) -> None:
    with make_tune(tmp_path, gpt2_folder, real=COMMAND)() as tuning:
        file = tuning.upload(lines(PAIR, times=12))
        hyperparameters: Any = {"n_epochs": 1, "batch_size": 4}
        job = tuning.client.fine_tuning.jobs.create(
            model="tiny", training_file=file, method={"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}
        )
        job = tuning.wait(job.id, "succeeded", "failed", seconds=180)
        assert job.status == "succeeded", tuning.messages(job.id)
        assert b"preference_accuracy" in tuning.client.files.content(job.result_files[0]).read()
        assert tuning.served.chat(model=job.fine_tuned_model, max_tokens=2).status == 200


@pytest.mark.long
def test_a_real_file_of_another_shape_is_refused_with_its_line(tmp_path: Path, gpt2_folder: Path) -> None:
    with make_tune(tmp_path, gpt2_folder, real=COMMAND)() as tuning:
        file = tuning.upload(lines(TALK, {"messages": "Hello"}))
        job = tuning.client.fine_tuning.jobs.create(model="tiny", training_file=file)
        job = tuning.wait(job.id, "succeeded", "failed", seconds=180)
        assert (job.status, job.error.code) == ("failed", "invalid_training_file")
        assert f"{file}:2:" in job.error.message


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_kills_of_server_and_job_leave_the_weights_as_they_would_be(tmp_path: Path, gpt2_folder: Path) -> None:
    """The programs are real ones; the only difference is that they save after every step."""
    code = (
        "from convmodel.server.fine_tuning import commands\n"
        "commands.SAVE_MINUTES = 1e-9\n"
        "from convmodel.cli.main import main\n"
        "main()\n"
    )
    (tmp_path / "main.py").write_text(code)
    shutil.copytree(gpt2_folder, tmp_path / "tiny")
    jobs, ids = tmp_path / "tuned/jobs", []

    def restart(stack: ExitStack) -> Program:
        arguments = ["tiny", "--train", "tuned", "--train-at-once", "2"]  # the second one trains undisturbed meanwhile
        served = stack.enter_context(program(tmp_path, *arguments, script=tmp_path / "main.py"))
        wait_until(served.ready, 120)
        return served

    def newest(id: str) -> int:
        return newest_step(jobs / id / "model")

    with ExitStack() as stack:
        served = restart(stack)
        with OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            talks = [
                {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"It is {n}."}]}
                for n in range(24)
            ]
            file = client.files.create(file=("talks.jsonl", lines(*talks)), purpose="fine-tune")
            for _ in range(2):
                # Longer than a server takes to start, so that the job still runs when it is killed the last time.
                options: Any = {"n_epochs": 15, "batch_size": 2, "learning_rate_multiplier": 20}
                job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, hyperparameters=options)
                ids.append(job.id)
        rounds = (("job",), ("server", "job"), ("server",), ("job",), ("server", "job"), ("job",), ("server", "job"))
        for victims in rounds:
            step = newest(ids[0])
            wait_until(lambda at_least=step: newest(ids[0]) > at_least, 120)
            process = json.loads((jobs / ids[0] / "job.json").read_text())["pid"]
            assert served.get(f"/v1/fine_tuning/jobs/{ids[0]}").json["status"] == "running"
            if "server" in victims:
                served.end(signal.SIGKILL)
                assert exists(process)  # it survives its server
            if "job" in victims:
                os.kill(process, signal.SIGKILL)
            if "server" in victims:
                served = restart(stack)
        for id in ids:
            wait_until(lambda id=id: served.get(f"/v1/fine_tuning/jobs/{id}").json["status"] == "succeeded", 300)
        killed, whole = (jobs / id / "model/model.safetensors" for id in ids)
        assert killed.read_bytes() == whole.read_bytes()
        tables = []
        for id in ids:
            (result,) = served.get(f"/v1/fine_tuning/jobs/{id}").json["result_files"]
            rows = csv.DictReader(served.get(f"/v1/files/{result}/content").body.decode().splitlines())
            tables.append([{name: row[name] for name in ("step", "train_loss")} for row in rows])
        assert tables[0] == tables[1]
        assert served.end() == 0
