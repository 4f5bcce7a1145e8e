"""`examples/first-model.ipynb` runs from top to bottom, and what its text says about the results is true."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)
NOTEBOOK = json.loads((Path(__file__).parents[2] / "examples/first-model.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_stored_without_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)


def test_its_cells_have_the_ids_that_the_format_asks_for() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    identifiers = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(identifiers)) == len(identifiers)


def test_in_colab_it_installs_the_uploaded_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")  # the cell sets it
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    install = "".join(CODE[0]["source"])
    with pytest.raises(FileNotFoundError, match="upload it"):
        exec(install, {})
    wheel = tmp_path / "convmodel-0.4.0-cp311-abi3-linux_x86_64.whl"
    wheel.touch()
    exec(install, {})
    exec(install.replace('CONVMODEL = ""', 'CONVMODEL = "https://example.com/convmodel.zip"'), {})
    assert [command[-1] for command in commands] == [
        f"convmodel[train,eval] @ {wheel.as_uri()}",
        "convmodel[train,eval] @ https://example.com/convmodel.zip",
    ]


@pytest.fixture
def names(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The names that the notebook has defined, after all cells have run in an empty folder."""
    import matplotlib as mpl

    names: dict[str, Any] = {"__name__": "notebook"}
    with pytest.MonkeyPatch.context() as patch, mpl.rc_context({"backend": "agg"}):
        patch.chdir(tmp_path)
        patch.setenv("TERM", "dumb")  # the first cell sets it
        for number, cell in enumerate(CODE):
            source = "".join(cell["source"])
            if source.startswith("!"):
                names["printed"] = run_command(source.format(**names))
            else:
                exec(compile(source, f"cell {number}", "exec"), names)
        names["folder"] = Path.cwd()
        yield names
        mpl.pyplot.close("all")


def run_command(line: str) -> str:
    """Runs a line with which a notebook starts a command, and returns what it prints."""
    result = subprocess.run(shlex.split(line[1:]), capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.long
def test_what_the_text_says_about_the_results_is_true(names: dict[str, Any]) -> None:
    """One test, since several would be shared out to workers that each run the notebook."""
    summary = names["summary"]
    assert (summary.entries, summary.conversations, summary.turns) == (480, 80, 480)
    assert summary.written == {"train.jsonl": 64, "valid.jsonl": 8, "test.jsonl": 8}
    assert names["train"][0].speakers[:2] == ("user", "assistant")

    assert names["printed"].count(" pass ") >= 10
    of_data = [line for line in names["printed"].splitlines() if not line.strip().startswith("memory")]
    assert not re.search(r"\b(warn|fail)\b", "\n".join(of_data))

    assert names["after"].perplexity < names["before"].perplexity / 10
    assert math.isfinite(names["before"].bits_per_byte)
    assert names["after"].bits_per_byte < names["before"].bits_per_byte
    for name in ("loss", "eval_loss"):
        _, values = names["logged"](name)
        assert values[-1] < values[0] / 2

    known = {word for texts in names["EXCHANGES"] for word in texts[1].split()}
    for before, after in zip(names["replies_before"], names["replies_after"], strict=True):
        assert after != before
        assert sum(word in known for word in after.split()) > len(after.split()) / 2
    assert len(names["session"].turns) == 6
    assert (names["folder"] / "bob/model.safetensors").is_file()
