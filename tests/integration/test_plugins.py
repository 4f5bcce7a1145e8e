"""The example of a package with plugins: installed by pip, and used by the commands as the built-in parts are."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forking import run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/convmodel-plugin"
LOG = """\
2026-11-02 12:00:01\t-->\tann (ann@example.org) has joined #tea
2026-11-02 12:00:05\t@ann\tHello all, who wants tea?
2026-11-02 12:01:00\tbob\tMe, please
2026-11-02 12:02:00\t@ann\tGreen or black?
"""


@pytest.fixture(scope="module")
def packages(make_once: Callable[..., Path]) -> Path:
    """The folder into which the example is installed, without a network."""

    def install(folder: Path) -> None:
        source = folder.with_name("plugin-source")  # a build writes into it
        shutil.copytree(EXAMPLE, source)
        options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(source)]
        subprocess.run(command, check=True, capture_output=True, timeout=100)

    return make_once("plugin", install)


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(packages: Path, tmp_path: Path) -> Cli:
    """Runs `convmodel ...` in a process of its own, with the package installed, and returns its output."""
    script = tmp_path / "command.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(packages)!r})\nfrom convmodel.cli.main import main\nmain()\n"
    )
    env = {**os.environ, "COLUMNS": "100"}

    def cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run([str(script), *arguments], env=env, cwd=tmp_path, timeout=100)

    return cli


@pytest.mark.slow
def test_the_example_imports_a_chat(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "tea.weechatlog").write_text(LOG, encoding="utf-8")
    command = ["-m", "convmodel", "import", "tea.weechatlog", "--me", "bob", "--split", "1,0,0", "--json"]

    result = run(command, env={**os.environ, "PYTHONPATH": str(packages)}, cwd=tmp_path, fresh=True, timeout=100)

    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["formats"], summary["entries"]) == ({"weechat": 1}, 4)
    assert summary["dropped_entries"] == {"system message": 1}
    [line] = (tmp_path / "data/train.jsonl").read_text(encoding="utf-8").splitlines()
    talk = json.loads(line)
    assert talk["turns"] == ["Hello all, who wants tea?", "Me, please", "Green or black?"]
    assert talk["speakers"] == ["user", "assistant", "user"]


@pytest.mark.slow
def test_the_example_names_a_malformed_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tea.log").write_text(LOG + "kettle\n", encoding="utf-8")

    result = cli("import", "tea.log", "--format", "weechat")

    assert result.returncode == 1
    error = " ".join(result.stderr.split())
    assert error.endswith("tea.log:5: this is not a time, a nick and a text: correct or remove the line")


@pytest.mark.slow
def test_the_example_splits_at_line_feeds_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tea.log").write_bytes(b"\xef\xbb\xbf" + LOG.replace("Me, please", "Me,\x1d\u2028please").encode())

    result = cli("import", "tea.log", "--format", "weechat", "--split", "1,0,0")

    assert result.returncode == 0, result.stderr
    assert "please" in (tmp_path / "data/train.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_work(cli: Cli, tmp_path: Path) -> None:
    page = (ROOT / "docs/extend-exports.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in page.splitlines() if line.startswith("convmodel import ")]
    (tmp_path / "tea.weechatlog").write_text(LOG, encoding="utf-8")

    results = [cli(*line[1:]) for line in lines]

    assert [(result.returncode, result.stderr[-500:] * bool(result.returncode)) for result in results] == [(0, "")] * 2


@pytest.mark.long
def test_the_example_measures_responses(cli: Cli, reader_folder: Path) -> None:
    few = ("--responses", "4", "--max-new-tokens", "8", "--greedy", "--distractors", "0", "--self-chats", "0")

    result = cli("evaluate", "model", "--data", "test.jsonl", *few, "--report", "report.json", "--report", "report.md")

    assert result.returncode == 0, result.stderr
    assert "responses that ask" in result.stdout
    [model, *_] = json.loads((reader_folder / "report.json").read_text(encoding="utf-8"))["models"]
    asking = sum("?" in exchange["response"] for exchange in model["exchanges"])
    assert model["metrics"]["questions"]["value"] == asking / len(model["exchanges"])
    assert model["signatures"]["questions"] == "convmodel-plugin 1.0"
    assert "responses with a question mark" in (reader_folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_help_and_errors_list_what_is_installed(cli: Cli) -> None:
    readers, metrics, other = cli("import", "--help"), cli("evaluate", "--help"), cli("fit", "--help")
    error = cli("import", "tea.log", "--format", "weechats")

    assert "Export readers of installed packages: weechat (convmodel-plugin 1.0)" in readers.stdout
    assert "Metrics of installed packages: questions (convmodel-plugin 1.0)" in metrics.stdout
    assert "installed packages" not in other.stdout
    assert ", plain, weechat, turns, " in " ".join(error.stderr.split())


def test_a_start_looks_for_no_package(packages: Path) -> None:
    program = (
        "import sys, importlib.metadata as metadata\n"
        "metadata.entry_points = None\n"
        "from convmodel.cli.main import app\n"
        "app(['fit', '--help'], standalone_mode=False)\n"
        "from convmodel.data.importing.pipeline import ImportOptions\n"
        "ImportOptions(format='whatsapp')\n"
        "assert 'convmodel_plugin' not in sys.modules\n"
    )

    env = {**os.environ, "PYTHONPATH": str(packages)}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=100)

    assert result.returncode == 0, result.stderr


def test_the_pages_show_the_example() -> None:
    example = (EXAMPLE / "convmodel_plugin.py").read_text(encoding="utf-8")
    project = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    reader = example[example.index("EVENTS =") : example.index("questions =")].rstrip()
    metric = example[example.index("questions =") :].rstrip()
    for page, code, group in (("exports", reader, "exports"), ("metrics", metric, "metrics")):
        text = (ROOT / f"docs/extend-{page}.md").read_text(encoding="utf-8")
        entry = project[project.index(f'[project.entry-points."convmodel.{group}"]') :].partition("\n\n")[0]
        assert code in text
        assert entry in text
