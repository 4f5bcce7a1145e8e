"""The Dockerfile fits the package. No test builds it: Docker is not needed to work on convmodel."""

import fnmatch
import json
import re
from pathlib import Path

from typer.testing import CliRunner

from convmodel.cli.main import app
from convmodel.hf_model.int8_file import INT8_FILE
from convmodel.server.middleware import PUBLIC
from convmodel.server.settings import KEY_VARIABLE

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/install.md").read_text(encoding="utf-8").partition("## Docker")[2]


def instructions() -> list[tuple[str, str]]:
    """The instructions, with continued lines joined and comments left out."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_last_stage_runs_as_a_user_who_is_not_root() -> None:
    names = [name for name, _ in instructions()]
    last_stage = instructions()[len(names) - 1 - names[::-1].index("FROM") :]
    [user] = [rest for name, rest in last_stage if name == "USER"]
    assert int(user) > 0
    assert f"--uid {user} --home-dir /models" in TEXT
    assert ("VOLUME", "/models") in last_stage
    assert f"uid {user}" in PAGE


def test_all_stages_are_of_a_python_that_convmodel_supports_and_slim() -> None:
    stages = [rest for name, rest in instructions() if name == "FROM"]
    assert [stage.split()[0] for stage in stages] == ["python:${PYTHON}-slim"] * 2
    [version] = re.findall(r"^ARG PYTHON=(\S+)$", TEXT, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def ignored(name: str) -> bool:
    """Whether `.dockerignore` leaves a file out; the last line that fits it decides."""
    result = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        parts = [name, *(str(parent) for parent in Path(name).parents)]
        depths = [pattern, pattern.removeprefix("**/")]
        if any(fnmatch.fnmatch(part, one) for part in parts for one in depths):
            result = not line.startswith("!")
    return result


def test_what_is_copied_exists_and_is_sent_to_docker() -> None:
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = [source for sources in copied for source in sources]
    assert {"pyproject.toml", "README.md", "constraints.txt", "LICENSE", "src"} == {*sources}
    assert all((ROOT / source).exists() and not ignored(source) for source in sources)


def test_nothing_else_is_sent_to_docker() -> None:
    assert ignored(".git/config")
    assert ignored("docs/index.md")
    assert ignored("src/convmodel/hf_model/_kernels.abi3.so")
    assert ignored("src/convmodel.egg-info/PKG-INFO")
    assert not ignored("src/convmodel/hf_model/_kernels.c")
    weights = f"src/convmodel/assets/chitchat/{INT8_FILE}"
    assert (ROOT / weights).exists()
    assert not ignored(weights)


def test_the_flags_are_those_of_the_command_and_its_key_comes_from_the_environment() -> None:
    [entry] = [json.loads(rest) for name, rest in instructions() if name == "ENTRYPOINT"]
    assert entry[:2] == ["convmodel", "serve"]
    assert "--host" in entry
    port = entry[entry.index("--port") + 1]
    assert ("EXPOSE", port) in instructions()
    assert f"--env {KEY_VARIABLE} --publish 127.0.0.1:{port}:{port}" in PAGE
    refused = CliRunner().invoke(app, [*entry[1:], "builtin:chitchat"], env={KEY_VARIABLE: ""})
    assert refused.exit_code
    assert "can be reached by other machines" in str(refused.exception)


def test_the_health_check_asks_a_route_that_needs_no_key() -> None:
    [check] = [rest.partition("CMD ")[2] for name, rest in instructions() if name == "HEALTHCHECK"]
    program, flag, code = json.loads(check)
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    [route] = re.findall(r"'GET', '(/\w+)'", code)
    assert route in PUBLIC
    assert f"`{route}`" in PAGE
