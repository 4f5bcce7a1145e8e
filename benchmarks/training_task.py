"""What `training.py` gives every side to train: the same start and the same windows, each time in a fresh process."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from convmodel import Conversation, ConversationTokenizer

HERE = Path(__file__).parent
SAME = {"weight_decay": 0.01, "max_grad_norm": 1.0, "logging_steps": 1}


class FailedError(Exception):
    """A job came to no result; the message is the last line of what its process said."""


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        worker: What trains: convmodel, trl or hf.
        settings: What it sets that others do not.
        packed: Whether windows share rows of the full length.
        lora: Options of peft's `LoraConfig` if adapters are trained; convmodel has them in `settings`.
    """

    worker: str
    settings: dict[str, Any] = field(default_factory=dict)
    packed: bool = False
    lora: dict[str, Any] | None = None


@dataclass(frozen=True)
class Task:
    """What all sides train: a start, and the same windows as conversations and as rows of token ids.

    Attributes:
        folder: Where they are.
        peers: The Python of the other sides' environment.
        max_length: The longest window, in tokens.
        windows: How many there are.
        tokens: How many tokens they have together.
        per_update: How many windows a step takes.
    """

    folder: Path
    peers: str
    max_length: int
    windows: int
    tokens: int
    per_update: int

    @classmethod
    def make(
        cls,
        options: argparse.Namespace,
        folder: Path,
        start: "PretrainedConfig | str",
        *,
        conversations: int,
        max_length: int,
        tokens: int | None = None,
        seed: int = 0,
    ) -> "Task":
        from convmodel import ConversationModel, ConversationTokenizer
        from convmodel.data.reading.reader import ConversationReader
        from convmodel.data.windows.store import prepare_windows
        from convmodel.layout.sequence import IGNORED

        if isinstance(start, str):  # a layout with a separator, as of models without a template: pieces are of turns
            model = ConversationModel.from_pretrained(start, layout="separator", device="cpu")
        else:
            tokenizer = ConversationTokenizer.from_pretrained(options.tokenizer)
            model = ConversationModel.from_config(start, tokenizer, seed=seed)
        model.save_pretrained(folder / "start")
        max_length = options.max_length or max_length
        chosen = list(islice(ConversationReader(options.train), options.conversations or conversations))
        lines, found = [], 0
        for length, turns in (piece for each in chosen for piece in pieces(each, model.tokenizer, max_length)):
            if tokens is not None and found >= tokens:
                break
            found += length
            lines.append(json.dumps(turns) + "\n")
        (folder / "conversations.jsonl").write_text("".join(lines))
        reader = ConversationReader(folder / "conversations.jsonl")
        windows = prepare_windows(reader, model.tokenizer, max_length=max_length, loss_on="all").windows
        assert all(IGNORED not in window.labels[1:] for window in windows), "a window has tokens that are not targets"
        assert len(windows) == len(lines), "a piece has become several windows"
        rows = [list(window.input_ids) for window in windows]
        (folder / "rows.json").write_text(json.dumps(rows))
        return cls(folder, options.peers, max_length, len(rows), sum(map(len, rows)), options.windows)

    @property
    def rows(self) -> int:
        """How many packed rows have about as many tokens as a step's windows."""
        return max(1, round(self.per_update * self.tokens / self.windows / self.max_length))

    def describe(self) -> str:
        return (
            f"{self.windows} windows of at most {self.max_length} with {self.tokens:,} tokens, "
            f"{self.per_update} windows or {self.rows} packed rows per step"
        )

    def train(
        self, side: Side, settings: dict[str, Any], *, dropout: float = 0.0, save: Path | None = None
    ) -> dict[str, Any]:
        """Trains for an epoch in a fresh process, and returns what was measured."""
        size = self.rows if side.packed else self.per_update
        job = {"worker": side.worker, "save": save and str(save), "lora": side.lora}
        if side.worker == "convmodel":
            own = {"epochs": 1, "batch_size": size, "max_length": self.max_length, "dropout": dropout}
            job["settings"] = SAME | settings | own | side.settings
            return self.work(job)
        job["settings"] = SAME | settings | {"num_train_epochs": 1, "per_device_train_batch_size": size} | side.settings
        config = json.loads((self.folder / "start" / "config.json").read_text())
        job["model"] = {name: dropout for name in config if name.endswith("pdrop")}
        return self.work(job)

    def work(self, job: dict[str, Any]) -> dict[str, Any]:
        """Does a job in a fresh process."""
        names = {
            "folder": "start",
            "conversations": "conversations.jsonl",
            "rows": "rows.json",
            "result": "result.json",
        }
        files = {name: str(self.folder / file) for name, file in names.items()}
        known = {"max_length": self.max_length, "tokens": self.tokens, "per_update": self.rows * self.max_length}
        (self.folder / "job.json").write_text(json.dumps(files | known | job))
        ours = [sys.executable, str(HERE / "training_ours.py")]
        peers = [self.peers, str(HERE / "training_peers.py")]
        command = [*(peers if job["worker"] in ("trl", "hf") else ours), str(self.folder / "job.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise FailedError(lines[-1])
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found


def pieces(
    conversation: "Conversation", tokenizer: "ConversationTokenizer", max_length: int
) -> Iterator[tuple[int, list[str]]]:
    """Cuts a conversation between turns into pieces that fit into a window, with their lengths in tokens."""
    size, turns = 1, []
    for turn in conversation.turns:
        more = 1 + len(tokenizer.encode(turn))
        if more >= max_length:
            continue  # no piece can have it
        if size + more > max_length:
            yield size, turns
            size, turns = 1, []
        size += more
        turns.append(turn)
    if turns:
        yield size, turns
