"""The loop from judgements to a better model: train, compare blind, use, and go back.

Owns: what may happen when, and loading the model that an improvement wrote beside the one that is served. Does not know
HTTP, and nothing of training but the command that does it.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from convmodel.evaluation.votes import Wins
from convmodel.model import ConversationModel
from convmodel.server.errors import ApiError, unavailable
from convmodel.server.serving.improvement_file import ImprovementFile, JobRecord
from convmodel.server.serving.improvement_job import COMMAND, read_contexts
from convmodel.server.serving.improvement_room import missing_memory, missing_room
from convmodel.server.serving.improvement_run import ImprovementRun
from convmodel.server.serving.model_registry import ModelRegistry
from convmodel.server.settings import MIN_VOTES
from convmodel.training.improvement import read_record

logger = logging.getLogger(__name__)

CandidateState = Literal["loading", "ready", "failed"]


class Improver:
    """Improves the models of a server, one at a time.

    Example:
        >>> load, feedback = ConversationModel.from_pretrained, [Path("feedback.jsonl")]
        >>> improver = Improver(Path("better"), {"model": "model"}, load, feedback)
        >>> improver.source("model") == str(Path("model").resolve())  # it was not improved yet
        True
        >>> improver.close()
    """

    def __init__(
        self,
        folder: Path,
        sources: Mapping[str, str],
        load: Callable[[str], ConversationModel],
        feedback: Sequence[Path],
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Reads what an earlier server left in the folder.

        Args:
            folder: Where improved models are written.
            sources: What each model was loaded from at first, by its id.
            load: Loads a model from such a source, or from a folder that an improvement wrote.
            feedback: The files of judgements.
            command: The command that improves a model; its arguments are appended.

        Raises:
            ConfigError: If the folder's `improvements.json` is damaged or does not fit to the models.
            SaveError: If the folder cannot be written, or another server uses it.
        """
        self._file = ImprovementFile(folder, sources)
        self._load = load
        self._lock = threading.RLock()  # held while anything changes, but not while a model is loaded
        self._switching = threading.Lock()  # held while a model is loaded to be served
        self._registry: ModelRegistry | None = None
        self._run = ImprovementRun(self._file, feedback, command, self._lock, self._load_candidate)
        self._closed = False
        self._candidate: CandidateState | None = None
        self._candidate_error = ""

    def version(self, name: str) -> str | None:
        """Returns the name of the improved model that is served under an id; None for the model as it was at first."""
        return self._file.version(name)

    def source(self, name: str) -> str:
        """Returns what to load for a model: the version that was chosen last."""
        return self._file.source(name)

    def start(self, registry: ModelRegistry) -> None:
        """Continues what an earlier server left, now that the models are loaded."""
        result = {} if self._run.job is None else read_record(self._file.folder / self._run.job.folder) or {}
        with self._lock:
            self._registry = registry
            job = self._run.job
            if self._run.running:
                self._run.watch()
            elif job is not None and job.state == "done" and self._file.version(job.model) != job.folder:
                self._load_candidate(job, result)  # it was neither used nor replaced by the next one

    def close(self) -> None:
        """Stops a running improvement, which can be resumed later, and lets another server use the folder."""
        with self._lock:
            self._closed = True
            self._run.close()
            self._file.close()

    def state(self) -> dict[str, Any]:
        """Returns everything that the page shows."""
        counts = self._run.counts.read()
        with self._lock:
            run, candidate = self._run.view(), self._candidate
            state: dict[str, Any] = {
                "object": "improvement",
                "judgements": counts.describe(),
                "models": [{"id": served.id, **self._versions(served.id)} for served in self._served.models],
            }
            shown = {} if run is None or candidate is None else self._candidate_facts(run.job)
        # What follows reads files, which requests must not wait for.
        state["job"] = None if run is None else run.describe()
        state["candidate"] = None if run is None or candidate is None else shown | self._comparison(run.job, shown)
        return state

    def begin(self, name: str | None) -> None:
        """Starts an improvement of a model, the first one by default, or resumes the one that was stopped.

        Raises:
            ApiError: If one runs already, judgements or room on the disk are missing, or there is no such model.
            SaveError: If the process cannot be started.
        """
        counts, feedback = self._run.counts.read(current=True), self._run.counts.usable()
        with self._lock:
            served = self._served.models[0] if name is None else self._require_listed(name)
            job = self._run.job
            if self._run.running and job is not None:
                raise _conflict(f"{job.model} is being improved: wait for its end, or cancel it", "training_runs")
            if counts.problems:
                raise _conflict(counts.problems[0], "feedback_invalid")
            if counts.needed:
                raise _conflict(f"there are too few judgements: {counts.needed} are needed", "feedback_missing")
            if missing := missing_room(self._file.folder, served.model.hf_model):
                raise ApiError(507, missing, type="server_error", code="storage_full")
            self._run.start(served.id, {model.id for model in self._served.models}, feedback)
            self._drop_candidate(job)

    def cancel(self) -> None:
        """Stops the improvement after its current step; `begin` resumes it.

        Raises:
            ApiError: If none runs.
        """
        with self._lock:
            if not self._run.running:
                raise _conflict("no improvement is running", "no_training")
            self._run.cancel()

    def use(self, name: str, version: Literal["new", "old"]) -> None:
        """Serves the new version of a model under its id, or again the one before.

        Running requests finish with the model that they began with.

        Raises:
            ApiError: If there is no such version, or the votes do not allow it yet.
            ConvModelError: If the model cannot be loaded or the choice not be saved; nothing has changed then.
        """
        with self._switching:
            if version == "new":
                self._use_new(name)
            else:
                self._use_old(name)

    # Everything below is called with the lock held, unless it says otherwise.

    @property
    def _served(self) -> ModelRegistry:
        if self._registry is None:
            raise unavailable("the model is being loaded: try again in a moment", "loading", 2)
        return self._registry

    def _require_listed(self, name: str) -> Any:
        served = self._served.get(name)
        if served.id not in {listed.id for listed in self._served.models}:
            raise ApiError(404, f"{name} is a new version itself", param="model", code="model_not_found")
        return served

    def _versions(self, name: str) -> dict[str, Any]:
        return {"version": self._version(name), "old": self._file.old_label(name)}

    def _version(self, name: str) -> str:
        return self._file.version(name) or name

    def _load_candidate(self, job: JobRecord, result: Mapping[str, Any]) -> None:
        if result.get("steps") == 0:
            return  # the guard kept the model as it was
        self._candidate, self._candidate_error = "loading", ""
        threading.Thread(target=self._add_candidate, args=[job], name="loading candidate", daemon=True).start()

    def _add_candidate(self, job: JobRecord) -> None:
        """Loads the new model beside the old one; called without the lock."""
        model: ConversationModel | None
        try:
            if missing := missing_memory(self._served.get(job.model).model.hf_model):
                raise MemoryError(f"{missing}: compare them by `convmodel compare`")
            model = self._load(str(self._file.folder / job.folder))
            problem = ""
        except Exception as error:
            logger.exception("%s cannot be loaded", job.folder)
            model, problem = None, str(error) or type(error).__name__
        with self._lock:
            if self._closed or self._run.job != job or self._candidate != "loading":
                return  # the next improvement has begun
            self._candidate, self._candidate_error = "failed" if model is None else "ready", problem
            if model is not None:
                self._served.add_candidate(job.folder, model)

    def _drop_candidate(self, job: JobRecord | None) -> None:
        """Ends the candidate of an improvement, if it is loaded or being loaded."""
        if self._candidate is not None and job is not None:
            self._served.remove_candidate(job.folder)
        self._candidate, self._candidate_error = None, ""

    def _use_new(self, name: str) -> None:
        """Replaces the served model by the candidate; called without the lock."""
        with self._lock:
            job, old = self._ready_job(name), self._version(name)
        verdict = _verdict(self._served.votes.wins(old, job.folder))
        if not verdict["can_use"]:
            raise _conflict(str(verdict["reason"]), "votes_missing")
        with self._lock:
            if self._ready_job(name) != job:
                raise _conflict(f"{job.folder} is not the latest version any more", "no_candidate")
            model = self._served.get(job.folder).model
            self._file.push(name, job.folder)
            self._served.replace(name, model, job.folder)
            self._drop_candidate(job)
            logger.info("%s is served as %s from now on", job.folder, name)

    def _ready_job(self, name: str) -> JobRecord:
        """Returns the improvement of a model whose candidate is loaded."""
        self._require_listed(name)
        job = self._run.job
        if job is None or job.model != name or self._candidate != "ready":
            raise _conflict(f"{name} has no new version that is loaded", "no_candidate")
        return job

    def _use_old(self, name: str) -> None:
        """Loads the model before and serves it again; called without the lock."""
        with self._lock:
            self._require_listed(name)
            if (label := self._file.old_label(name)) is None:
                raise _conflict(f"{name} is served as it was at first", "no_old_version")
            source = self._file.source(name, back=1)
            hf_model = self._served.get(name).model.hf_model
            candidate = self._run.job if self._candidate == "ready" and missing_memory(hf_model, seconds=0) else None
            if candidate is not None:
                self._drop_candidate(candidate)  # it is loaded again, if the memory suffices
        try:
            if missing := missing_memory(hf_model):
                raise _conflict(f"{missing}: free some, and try again", "memory_missing")
            del hf_model  # so that the replaced model can be freed
            model = self._load(source)
            with self._lock:
                left, version, job = self._served.get(name).model, self._version(name), self._run.job
                self._file.pop(name)
                self._served.replace(name, model, label)
                logger.info("%s is served as %s again", source, name)
                if job is not None and job.folder == version and job.state == "done" and self._candidate is None:
                    self._served.add_candidate(job.folder, left)
                    self._candidate = "ready"
        finally:
            if candidate is not None:
                self._load_again(candidate)

    def _load_again(self, job: JobRecord) -> None:
        """Loads a candidate that was dropped for its memory; called without the lock."""
        with self._lock:
            if not self._closed and self._run.job == job and self._candidate is None:
                self._load_candidate(job, {})

    def _candidate_facts(self, job: JobRecord) -> dict[str, Any]:
        return {
            "model": job.model,
            "id": job.folder,
            "old": self._version(job.model),
            "state": self._candidate,
            "error": self._candidate_error,
        }

    def _comparison(self, job: JobRecord, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the votes on a candidate, and the contexts to compare it on; called without the lock."""
        wins = self._served.votes.wins(facts["old"], job.folder)
        finite = {key: value if math.isfinite(value) else None for key, value in asdict(wins).items()}
        served = self._served.get(job.model)
        contexts = read_contexts(
            self._file.folder / job.folder, takes_system=served.takes_system, by_name=served.by_name
        )
        return {"votes": {**finite, **_verdict(wins)}, "contexts": contexts}


def _conflict(message: str, code: str) -> ApiError:
    return ApiError(409, message, code=code)


def _verdict(wins: Wins) -> dict[str, Any]:
    """Returns which version is better by the votes, and whether the new one can be used.

    Example:
        >>> _verdict(Wins(3, 1, 0, 0.75, 0.3, 0.95))["reason"]
        '1 more vote is needed'
    """
    missing = MIN_VOTES - wins.wins - wins.losses - wins.neither
    reason = ""
    if missing > 0:
        reason = f"{missing} more vote{'s are' if missing > 1 else ' is'} needed"
    elif wins.wins < wins.losses:
        reason = "the old version has more votes"
    verdict = "better" if wins.low > 0.5 else "worse" if wins.high < 0.5 else "undecided"
    return {"needed": max(0, missing), "verdict": verdict, "can_use": not reason, "reason": reason}
