"""Each fixture of an export gives exactly the conversations that a reader of it would write down."""

import json
from pathlib import Path

import pytest

from convmodel.data.importing.cleaning import CleaningRules
from convmodel.data.importing.pipeline import ImportOptions, import_conversations

FIXTURES = Path(__file__).parents[1] / "unit" / "data" / "importing" / "exports" / "fixtures"
EXPECTED = json.loads(Path(__file__).with_name("imports.json").read_text(encoding="utf-8"))
EVERYTHING = CleaningRules(min_turns=1, min_speakers=1, deduplicate=False)


def test_every_fixture_is_expected_to_give_something() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in FIXTURES.iterdir())


@pytest.mark.parametrize("name", EXPECTED)
def test_an_export_gives_exactly_these_conversations(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FIXTURES)  # ids are places, which begin with the path as it was given

    account = import_conversations([name], tmp_path, ImportOptions(cleaning=EVERYTHING, shares=(1, 0, 0)))

    written = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = EXPECTED[name]
    assert written == expected["conversations"]
    assert list(account.formats) == expected["format"]
    assert (account.entries, account.dropped_entries) == (expected["entries"], expected["left_out"])
    assert account.problems == 0
