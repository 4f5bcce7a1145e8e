"""What the routes of "Train" answer in each of their states, for tests of what the page then shows.

Owns: preparations and jobs as the server describes them. `Faked` answers with them in the server's place.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from page_training import open_view
from playwright.sync_api import Page, Route

EVIL = "<img src=x onerror='window.evil=1'>"

SUMMARY = {
    "formats": {"whatsapp": 2},
    "entries": 5704,
    "dropped_entries": {"media": 31, "deleted message": 1},
    "dropped_parts": {"links": 2},
    "carried": {},
    "problems": 3,
    "first_problems": [f"chat.txt:7: {EVIL}"],
    "speakers": {"Anne": 3071, "Will": 2633},
    "conversations": 1587,
    "dropped": {"exact duplicate": 1},
    "masked": {"phone numbers": 4},
    "written": {"train.jsonl": 1428, "valid.jsonl": 159},
    "turns": 5702,
    "notes": ["dates read as day/month/year, as line 175 shows (13/01/2023)"],
}
SPEAKERS = [
    {"name": f"Guest {number}", "turns": 200 - number, "first_words": "Hello" + "o" * 40} for number in range(20)
]
CHECKS = [
    {"name": "separator", "status": "pass", "finding": "the separator <sep> is token 1", "fix": ""},
    {"name": "steps", "status": "warn", "finding": "at most 20 steps, which are few", "fix": "give more data"},
    {"name": "memory", "status": "fail", "finding": "about 9 GiB are needed", "fix": "lower batch_size"},
]
ESTIMATE = {
    "steps": 537, "tokens": 321267, "padded_tokens": 338856, "seconds": 380.5, "memory_bytes": 704335232,
    "activation_bytes": 581834112, "available_bytes": 23417372160, "at_most": True,
    "parameters": 7700000, "weight_bytes": 30800000,
}  # fmt: skip


def preparation(status: str, **fields: Any) -> dict[str, Any]:
    """A preparation in a state."""
    is_read = status not in ("importing", "failed")
    is_checked = status == "ready"
    return {
        "object": "train.preparation",
        "id": "prep-1",
        "created_at": 1780000000,
        "files": ["file-1"],
        "filenames": ["WhatsApp Chat with averylongname" + "e" * 60 + ".txt"],
        "model": "chitchat",
        "me": "Guest 1" if status in ("checking", "ready") else None,
        "merge_others": False,
        "redact": False,
        "on_error": "fail",
        "status": status,
        "error": None if status != "failed" else {"code": "import_failed", "message": f"chat.txt:7: {EVIL}"},
        "summary": SUMMARY if is_read else None,
        "speakers": SPEAKERS if is_read else [],
        "more_speakers": 3 if is_read else 0,
        "training_file": "file-2" if is_read else None,
        "validation_file": "file-3" if is_read else None,
        "checks": CHECKS if is_checked else None,
        "blocking": "",
        "estimate": ESTIMATE if is_checked else None,
    } | fields


def job(status: str, **fields: Any) -> dict[str, Any]:
    """A job in a state, as the live view has it."""
    has_begun = status in ("running", "paused", "succeeded", "cancelled")
    context = [{"role": "user", "content": f"Is all this for your father? {EVIL}"}]
    replies = {0: "Yes, I think so.", 50: "No, it is not." + "o" * 60, 100: "No, some of it is for my child's father."}
    return {
        "object": "train.job",
        "job": {
            "object": "fine_tuning.job", "id": "ftjob-1", "created_at": 1780000100, "model": "chitchat",
            "status": status, "training_file": "file-2", "validation_file": "file-3", "user_provided_suffix": "Will",
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
            "error": {"code": "x", "message": "too little memory"} if status == "failed" else None,
        },
        "total_steps": 537 if has_begun else None,
        "step": 100 if has_begun else 0,
        "seconds_left": 190 if status == "running" else None,
        "train": [[step, 3 + 1 / step] for step in range(5, 105, 5)] if has_begun else [],
        "valid": [[0, 5.3, 200.3], [50, 4.4, 81.5], [100, 4.5, 90.0]] if has_begun else [],
        "samples": [
            {"step": step, "context": context, "expected": "No.", "response": text} for step, text in replies.items()
        ] if has_begun else [],
        "checks": CHECKS if has_begun else None,
        "verdict": "Better: perplexity fell from 200.3 to 81.5." if status == "succeeded" else None,
        "base": "chitchat",
        "model": "ft:chitchat:Will:0123abcd" if status == "succeeded" else None,
        "folder": "tuned/jobs/ftjob-1/model" if status == "succeeded" else None,
    } | fields  # fmt: skip


class Faked:
    """Answers in the place of the server that the page belongs to; the rest is the server's."""

    def __init__(self, page: Page, preparations: Sequence[Mapping[str, Any]], jobs: Sequence[Mapping[str, Any]]):
        self.preparations, self.jobs = preparations, jobs
        self.sent: list[tuple[str, str, Any]] = []
        self.models = page.request.get(f"{page.url}v1/models").json()
        for model in self.models["data"]:
            model["convmodel"]["fine_tuning"] = True
        page.route(re.compile("/(train/|v1/models|v1/files|v1/fine_tuning/)"), self._answer)

    def _answer(self, route: Route) -> None:
        request = route.request
        path = request.url.split("/", 3)[3].partition("?")[0]
        if path == "v1/models":
            route.fulfill(json=self.models)
            return
        if request.method != "GET":
            self.sent.append((request.method, path, request.post_data_json if path != "v1/files" else None))
        kind = self.preparations if "preparations" in path else self.jobs
        if request.method == "GET" and path in ("train/preparations", "train/jobs"):
            route.fulfill(json={"object": "list", "data": kind})
        elif path.startswith("v1/"):
            route.fulfill(json=kind[0]["job"] if kind else {"id": "file-9"})
        else:
            route.fulfill(json=kind[0])


AT_JOB, AT_START = '{"name": "job", "id": "ftjob-1"}', '{"name": "start", "id": ""}'


def show(page: Page, preparations: list[dict[str, Any]], jobs: list[dict[str, Any]], place: str = "") -> Faked:
    """Opens the view of a server in such a state, at a place if one is given."""
    faked = Faked(page, preparations, jobs)
    page.evaluate("place => place && sessionStorage.setItem('convmodel.train', place)", place)
    page.reload()
    if not place:
        open_view(page)
    return faked
