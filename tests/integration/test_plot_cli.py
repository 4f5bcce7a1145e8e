"""`convmodel plot` as a user meets it: the files, what is shown, what machines get, and what goes wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convmodel.cli.main import main

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `convmodel plot ...` in a folder with the fits `small` and `large`, and returns the exit code."""
    for name, loss, rate in (("small", 3.0, 1e-4), ("large", 2.0, 5e-5)):
        (tmp_path / name).mkdir()
        lines = [
            {"event": "begin", "config": {"learning_rate": rate, "output_dir": name}, "steps": 20},
            {"step": 10, "loss": loss, "tokens": 1280, "tokens_per_second": 400.0, "learning_rate": rate},
            {"step": 10, "eval_loss": loss, "eval_perplexity": 7.389, "eval_bits_per_byte": 1.5},
            {"step": 20, "loss": loss - 0.5, "tokens": 2560, "tokens_per_second": 410.0, "learning_rate": 0.0},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["convmodel", "plot", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        return int(exit.value.code or 0)

    return run


def rows(out: str) -> dict[str, list[str]]:
    """A table's cells by the first column; two spaces or more part them."""
    found = ([cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines())
    return {cells[0]: cells[1:] for cells in found if cells}


def test_one_fit_becomes_a_picture(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("small") == 0

    out, err = capfd.readouterr()
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    assert rows(out)["steps"] == ["20"]
    assert rows(out)["training tokens"] == ["2,560"]
    assert rows(out)["tokens per second"] == ["405"]
    assert "settings that differ" not in out
    assert err == "wrote the curves to curves.png\n"


def test_fits_are_compared_in_a_page(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("small", "large/metrics.jsonl", "--by", "tokens", "-o", "new/curves.html", "--title", "Two") == 0

    out, _ = capfd.readouterr()
    assert out.splitlines()[0].split() == ["small", "large"]
    assert rows(out)["best validation loss"] == ["3.000", "2.000"]
    assert rows(out)["best validation perplexity"] == ["7.39", "7.39"]
    assert rows(out)["learning_rate"] == ["0.0001", "5e-05"]
    assert "output_dir" not in out
    page = Path("new/curves.html").read_text(encoding="utf-8")
    assert "<h1>Two</h1>" in page
    assert "training tokens</text>" in page


def test_machines_get_the_metrics(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("small", "large", "--json") == 0

    found = json.loads(capfd.readouterr().out)
    assert found["output"] == "curves.png"
    assert [fit["name"] for fit in found["runs"]] == ["small", "large"]
    assert found["runs"][1] == {
        "name": "large",
        "steps": 20,
        "tokens": 2560,
        "tokens_per_second": 405.0,
        "seconds": None,
        "train_loss": 1.5,
        "best_step": 10,
        "eval_loss": 2.0,
        "eval_perplexity": 7.389,
        "eval_bits_per_byte": 1.5,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "there is no file or folder gone"),
        (["small", "small"], "small is given twice"),
        (["small", "-o", "curves.jpg"], "curves.jpg is not a name for curves: end it in .png or .html"),
        (["small", "-o", "folder.png"], "folder.png cannot be written: it is a folder; give a file"),
        (["small", "--by", "hours"], "by is 'hours': it must be steps or tokens"),
        (["bad"], "bad/metrics.jsonl:2: "),
    ],
)
def test_what_goes_wrong_is_one_line(
    run: Run, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("folder.png").mkdir()
    Path("bad").mkdir()
    Path("bad/metrics.jsonl").write_text('{"event": "begin"}\nnonsense\n')

    assert run(*arguments) == 1

    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"convmodel: {said}")
    assert err.count("\n") == 1
    assert not Path("curves.png").exists()


@pytest.mark.slow
def test_the_first_picture_reports_no_cache_of_fonts(run: Run) -> None:
    environment = {**os.environ, "MPLCONFIGDIR": str(Path.cwd())}
    command = [sys.executable, "-m", "convmodel", "plot", "small"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert list(Path.cwd().glob("fontlist*"))
    assert done.stderr == "wrote the curves to curves.png\n"


@pytest.mark.slow
def test_a_picture_is_drawn_without_torch(run: Run) -> None:
    code = (
        "import sys; from convmodel.cli.main import app; app(['plot', 'small'], standalone_mode=False);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    environment = {**os.environ, "MPLCONFIGDIR": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
