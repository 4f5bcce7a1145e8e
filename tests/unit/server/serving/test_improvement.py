"""What may happen when; the registry and the models are stand-ins, the process is a real one."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_improve import command
from serving import wait_until

from convmodel.errors import ModelLoadError, SaveError
from convmodel.evaluation.votes import wins_of
from convmodel.server.errors import ApiError
from convmodel.server.serving import improvement
from convmodel.server.serving.improvement import Improver
from convmodel.server.serving.improvement_counts import Counts

ENOUGH = Counts({"thumb": 20}, liked=10, disliked=10)


def served(name: str, model: str, version: str = "") -> Any:
    return SimpleNamespace(id=name, model=Model(model), version=version or name, takes_system=False, by_name=True)


class Model(str):
    """A model that is known by its name."""

    hf_model = None


class Registry:
    """Models by their ids, and votes; it notes which candidates there are."""

    def __init__(self) -> None:
        self.current = {"chat": served("chat", "old"), "more": served("more", "m")}
        self.candidates: dict[str, Any] = {}
        self.winners: Counter[str | None] = Counter()
        self.votes = SimpleNamespace(wins=lambda first, second: wins_of(self.winners, first, second))

    @property
    def models(self) -> list[Any]:
        return [*self.current.values()]

    def get(self, name: str) -> Any:
        return (self.current | self.candidates)[name]

    def add_candidate(self, name: str, model: Any) -> None:
        self.candidates[name] = served(name, model)

    def remove_candidate(self, name: str) -> None:
        self.candidates.pop(name, None)

    def replace(self, name: str, model: Any, version: str) -> None:
        self.current[name] = served(name, model, version)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Any) -> Iterator[Callable[..., Improver]]:
    """Makes an improver with enough judgements, as after a start of the server; the one before is closed."""
    made: list[Improver] = []
    line = {"context": [{"role": "user", "content": "Hello"}], "responder": "assistant", "chosen": "Hi"}
    (tmp_path / "f.jsonl").write_text(f"{json.dumps(line)}\n" * 20)
    monkeypatch.setattr(improvement, "missing_memory", lambda hf_model, seconds=5: "")
    monkeypatch.setattr(improvement, "missing_room", lambda folder, hf_model: "")
    monkeypatch.setattr(
        "convmodel.server.serving.improvement_counts.JudgementCounts.read", lambda self, current=False: ENOUGH
    )

    def make(load: Callable[[str], Any] = lambda source: f"from {Path(source).name}", **options: Any) -> Improver:
        for improver in made:
            improver.close()
        sources = {"chat": "builtin:chitchat", "more": "some/model"}
        made.append(Improver(tmp_path / "better", sources, load, [tmp_path / "f.jsonl"], command(**options)))
        made[-1].start(registry)
        return made[-1]

    yield make
    for improver in made:
        improver.close()


def improved(improver: Improver) -> Improver:
    improver.begin("chat")
    wait_until(lambda: (improver.state()["candidate"] or {}).get("state") == "ready")
    return improver


def code(act: Callable[[], object]) -> str:
    with pytest.raises(ApiError) as caught:
        act()
    assert caught.value.status == 409
    return str(caught.value.envelope["error"]["code"])


def test_before_the_models_are_loaded_it_asks_to_wait(tmp_path: Path) -> None:
    improver = Improver(tmp_path, {"chat": "x"}, lambda source: None, [])  # type: ignore[arg-type,return-value]
    with pytest.raises(ApiError) as caught:
        improver.state()
    assert caught.value.status == 503
    improver.close()


def test_a_model_is_improved_used_and_restored(make: Callable[..., Improver], registry: Registry) -> None:
    improver = improved(make())
    candidate = improver.state()["candidate"]
    assert (candidate["id"], candidate["old"], len(candidate["contexts"])) == ("chat-1", "chat", 3)
    assert registry.candidates["chat-1"].model == "from chat-1"
    assert candidate["votes"]["reason"] == "5 more votes are needed"
    assert code(lambda: improver.use("chat", "new")) == "votes_missing"
    registry.winners.update({"chat": 3, "chat-1": 2})
    assert improver.state()["candidate"]["votes"]["reason"] == "the old version has more votes"
    assert code(lambda: improver.use("chat", "new")) == "votes_missing"
    registry.winners.update({"chat-1": 1})
    improver.use("chat", "new")
    assert (registry.current["chat"].model, registry.current["chat"].version) == ("from chat-1", "chat-1")
    assert improver.version("chat") == "chat-1"
    assert not registry.candidates
    state = improver.state()
    assert (state["models"][0], state["candidate"]) == ({"id": "chat", "version": "chat-1", "old": "chat"}, None)

    improver.use("chat", "old")
    assert (registry.current["chat"].model, registry.current["chat"].version) == ("from builtin:chitchat", "chat")
    assert registry.candidates["chat-1"].model == "from chat-1"  # it may be compared again
    assert code(lambda: improver.use("chat", "old")) == "no_old_version"
    improver.use("chat", "new")
    assert registry.current["chat"].model == "from chat-1"


def test_the_choice_survives_a_restart(make: Callable[..., Improver], registry: Registry, tmp_path: Path) -> None:
    registry.winners.update({"chat-1": 5})
    improved(make()).use("chat", "new")
    improver = make()
    assert improver.source("chat") == str(tmp_path / "better/chat-1")
    assert improver.source("more") == "some/model"
    assert improver.state()["candidate"] is None
    improver.use("chat", "old")
    improver = make()
    assert improver.source("chat") == "builtin:chitchat"
    wait_until(lambda: improver.state()["candidate"]["state"] == "ready")  # and can still be chosen


def test_one_at_a_time(make: Callable[..., Improver]) -> None:
    improver = make(steps=1000, pause=0.02)
    assert code(improver.cancel) == "no_training"
    improver.begin(None)
    assert improver.state()["job"]["model"] == "chat"
    assert code(lambda: improver.begin("more")) == "training_runs"
    improver.cancel()
    wait_until(lambda: improver.state()["job"]["state"] == "cancelled")


@pytest.mark.slow
def test_the_next_improvement_takes_the_place_of_the_candidate(
    make: Callable[..., Improver], registry: Registry
) -> None:
    improver = improved(make(pause=0.2))
    improver.begin("chat")
    assert not registry.candidates
    assert code(lambda: improver.use("chat", "new")) == "no_candidate"
    wait_until(lambda: (improver.state()["candidate"] or {}).get("state") == "ready")
    assert [*registry.candidates] == ["chat-2"]
    assert code(lambda: improver.use("more", "new")) == "no_candidate"
    with pytest.raises(ApiError, match="chat-2 is a new version itself"):
        improver.begin("chat-2")


def test_too_few_and_invalid_judgements_are_refused(
    make: Callable[..., Improver], monkeypatch: pytest.MonkeyPatch
) -> None:
    improver = make()
    for counts, expected in (
        (Counts(liked=3), "feedback_missing"),
        (Counts(problems=["f:1: bad"]), "feedback_invalid"),
    ):
        monkeypatch.setattr(improver._run.counts, "read", lambda counts=counts, current=False: counts)
        assert code(lambda: improver.begin("chat")) == expected


def test_a_new_model_that_cannot_be_loaded_changes_nothing(make: Callable[..., Improver], registry: Registry) -> None:
    def load(source: str) -> Any:
        raise ModelLoadError("its weights are damaged")

    improver = make(load)
    improver.begin("chat")
    wait_until(lambda: (improver.state()["candidate"] or {}).get("state") == "failed")
    assert improver.state()["candidate"]["error"] == "its weights are damaged"
    registry.winners.update({"chat-1": 5})
    assert code(lambda: improver.use("chat", "new")) == "no_candidate"
    assert registry.current["chat"].model == "old"


def test_an_old_version_that_cannot_be_loaded_changes_nothing(
    make: Callable[..., Improver], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.winners.update({"chat-1": 5})
    improver = improved(make())
    improver.use("chat", "new")

    def load(source: str) -> Any:
        raise ModelLoadError("the folder is gone")

    monkeypatch.setattr(improver, "_load", load)
    with pytest.raises(ModelLoadError):
        improver.use("chat", "old")
    assert improver.state()["models"][0]["version"] == "chat-1"
    assert registry.current["chat"].model == "from chat-1"


@pytest.mark.slow
def test_a_candidate_that_comes_too_late_is_dropped(make: Callable[..., Improver], registry: Registry) -> None:
    loading = threading.Event()

    def load(source: str) -> str:
        loading.wait(10)
        return source

    improver = make(load, pause=0.3)
    improver.begin("chat")
    wait_until(lambda: (improver.state()["candidate"] or {}).get("state") == "loading")
    improver.begin("chat")
    loading.set()
    time.sleep(0.1)
    assert "chat-1" not in registry.candidates
    wait_until(lambda: "chat-2" in registry.candidates)


def test_without_room_on_the_disk_nothing_begins(
    make: Callable[..., Improver], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    improver = improved(make())
    monkeypatch.setattr(improvement, "missing_room", lambda folder, hf_model: "there is no room")
    with pytest.raises(ApiError, match="there is no room") as caught:
        improver.begin("chat")
    assert (caught.value.status, caught.value.envelope["error"]["code"]) == (507, "storage_full")
    assert improver.state()["candidate"]["state"] == "ready"


def test_a_run_that_cannot_begin_leaves_the_candidate(
    make: Callable[..., Improver], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    improver = improved(make())

    def refuse(*arguments: Any) -> None:
        raise SaveError("the log cannot be written")

    monkeypatch.setattr(improver._run, "start", refuse)
    with pytest.raises(SaveError):
        improver.begin("chat")
    assert improver.state()["candidate"]["state"] == "ready"
    assert [*registry.candidates] == ["chat-1"]


def test_going_back_needs_memory_and_takes_that_of_a_candidate(
    make: Callable[..., Improver], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.winners.update({"chat-1": 5})
    improver = improved(make())
    improver.use("chat", "new")
    improved(improver)
    free = True

    def missing(hf_model: Any, seconds: float = 5) -> str:
        return "" if free and not registry.candidates else "two models do not fit"

    monkeypatch.setattr(improvement, "missing_memory", missing)
    improver.use("chat", "old")
    assert registry.current["chat"].model == "from builtin:chitchat"
    wait_until(lambda: "chat-2" in registry.candidates)  # loaded again

    free = False
    registry.winners.update({"chat-2": 5})
    improver.use("chat", "new")
    assert code(lambda: improver.use("chat", "old")) == "memory_missing"
    assert registry.current["chat"].version == "chat-2"


def test_requests_do_not_wait_while_the_state_is_read(
    make: Callable[..., Improver], monkeypatch: pytest.MonkeyPatch
) -> None:
    improver = improved(make())
    is_reading, may_end = threading.Event(), threading.Event()

    def slow(folder: Path, *, takes_system: bool, by_name: bool) -> list[Any]:
        is_reading.set()
        may_end.wait(10)
        return []

    monkeypatch.setattr(improvement, "read_contexts", slow)
    reader = threading.Thread(target=improver.state)
    reader.start()
    assert is_reading.wait(10)
    assert improver._lock.acquire(timeout=5)
    improver._lock.release()
    may_end.set()
    reader.join(10)
