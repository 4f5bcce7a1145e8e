"""The records of preparations."""

from pathlib import Path

import pytest

from convmodel.errors import ConfigError
from convmodel.server.fine_tuning.preparation_store import PreparationSpec, PreparationStore

SPEC = PreparationSpec(["file-1"], ["chat.txt"], "tiny", "/models/tiny", me="Will")


def test_a_preparation_is_read_again_as_it_was(tmp_path: Path) -> None:
    store = PreparationStore(tmp_path)
    record = store.create(SPEC)
    checks = [{"name": "supervised", "status": "fail", "finding": "no turns", "fix": "name another speaker"}]
    changed = store.change(record.id, status="ready", training_file="file-2", checks=checks, pid=7)
    (tmp_path / "prep-0").mkdir()  # of one that was deleted while the server was killed
    (tmp_path / "mine").mkdir()
    assert PreparationStore(tmp_path).all() == [changed]
    assert {path.name for path in tmp_path.iterdir()} == {record.id, "mine"}
    described = changed.describe()
    assert (described["object"], described["me"], described["checks"]) == ("train.preparation", "Will", checks)
    assert described["blocking"] == "supervised: no turns; name another speaker"
    assert not {"pid", "source", "spec"} & described.keys()
    assert changed.made == ["file-2"]


@pytest.mark.parametrize("text", ["{}", '{"spec": {}}', "STATUS"])
def test_a_damaged_record_is_reported(tmp_path: Path, text: str) -> None:
    record = PreparationStore(tmp_path).create(SPEC)
    path = tmp_path / record.id / "preparation.json"
    path.write_text(path.read_text().replace("importing", "waiting") if text == "STATUS" else text)
    with pytest.raises(ConfigError, match=r"preparation.json is damaged: .* to drop the preparation"):
        PreparationStore(tmp_path)
