"""Files that were written before the modules moved are still read: a saved model, and a run that was interrupted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from convmodel import ConversationModel

SAVED = Path(__file__).parents[1] / "data/saved_by_0_4"
EXPECTED: dict[str, Any] = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))


def test_a_saved_model_means_what_it_meant() -> None:
    model = ConversationModel.from_pretrained(SAVED / "model")

    assert model.tokenizer(["Hello", "Is it still raining outside?"])["input_ids"] == EXPECTED["prompt"]
    assert model.evaluate(SAVED / "train.jsonl").loss == pytest.approx(EXPECTED["loss_of_model"], rel=1e-6)
    assert model.generate(["Hello"], max_new_tokens=6).responses == EXPECTED["response"]


def test_an_interrupted_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "run", tmp_path / "run")
    model = ConversationModel.from_pretrained(SAVED / "model")
    train = SAVED / "train.jsonl"

    model.fit(train, train, **EXPECTED["settings"], output_dir=str(tmp_path / "run"))

    assert model.evaluate(train).loss == pytest.approx(EXPECTED["loss_at_the_end"], rel=1e-4)
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    before = (SAVED / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == before[:3], "steps before the checkpoint are not made again"
    steps = {json.loads(line).get("step") for line in lines} - {None}
    assert steps == {*range(1, 16)}
