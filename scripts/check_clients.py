"""Checks the server with real clients: each in a new environment, at the versions of `tests/clients/clients.toml`.

    python scripts/check_clients.py                     # all clients
    python scripts/check_clients.py --only llm openai   # some of them
    python scripts/check_clients.py --keep clients      # with environments in a folder, which later runs use again

Starts `convmodel serve builtin:chitchat` from this checkout, runs the example and the checks of each client against it,
and prints a table. Exits with 1 if anything failed. Needs a network for the installations, and npm for clients of Node.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKS, EXAMPLES = ROOT / "tests/clients", ROOT / "examples/clients"
MODEL = "builtin:chitchat"
ADDRESS = "http://127.0.0.1:8000"  # in the examples
MINUTES = 15  # that an installation or the checks of a client may take
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # what keeps a client from asking other hosts


@dataclass(frozen=True)
class Client:
    """An entry of `clients.toml`."""

    title: str
    packages: Sequence[str]
    check: str
    example: str | None = None

    @property
    def is_node(self) -> bool:
        """Whether it runs in Node."""
        return self.check.endswith(".mjs")


@dataclass
class Outcome:
    """What the checks of a client found."""

    seconds: float = 0.0
    passed: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def read_clients() -> dict[str, Client]:
    """Returns the clients by name."""
    entries = tomllib.loads((CHECKS / "clients.toml").read_text(encoding="utf-8"))
    return {name: Client(**entry) for name, entry in entries.items()}


def main() -> None:
    clients = read_clients()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="CLIENT", choices=[*clients], help=f"some of {', '.join(clients)}")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="folder for the environments, kept and used again")
    options = parser.parse_args()

    outcomes: dict[str, Outcome] = {}
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convmodel-clients-")))
        folder = folder.absolute()  # the programs run in other folders
        key = secrets.token_hex()
        url = stack.enter_context(serving(folder))
        locked_url = stack.enter_context(serving(folder, "--max-queue", "1", "--api-key", key))
        for name in options.only or clients:
            print(f"{clients[name].title}:", flush=True)
            outcomes[name] = check_client(clients[name], folder / name, [f"{url}/v1", f"{locked_url}/v1", key])
    print(table(clients, outcomes))
    sys.exit(any(outcome.problems for outcome in outcomes.values()))


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """Serves the model until the end of the block; returns the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "convmodel", "serve", MODEL, "--system-messages", "--port", str(port), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with (folder / f"server-{port}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}", process, Path(log.name))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until a server is ready."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/ready"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    sys.exit(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


def check_client(client: Client, folder: Path, arguments: Sequence[str]) -> Outcome:
    """Installs a client and runs its example and its checks."""
    outcome = Outcome()
    try:
        interpreter = install(client, folder)
        begin = time.perf_counter()
        if client.example is not None:
            run_example(client.example, interpreter, folder, arguments[0].removesuffix("/v1"))
            outcome.passed.append("example")
        source = CHECKS
        if client.is_node:  # Node looks for packages beside the program
            source = folder
            for path in CHECKS.glob("*.mjs"):
                shutil.copy(path, folder)
        output = run([interpreter, str(source / client.check), *arguments], folder, OFFLINE)
        for result in map(json.loads, filter(lambda line: line.startswith('{"check":'), output.splitlines())):
            if result["problem"]:
                outcome.problems[result["check"]] = result["problem"]
            else:
                outcome.passed.append(result["check"])
            print(f"    {'FAILED' if result['problem'] else 'passed'}  {result['check']} ({result['seconds']} s)")
        outcome.seconds = time.perf_counter() - begin
    except (subprocess.SubprocessError, OSError) as error:  # also without npm
        outcome.problems["run"] = f"{error}\n{getattr(error, 'stdout', '')}{getattr(error, 'stderr', '')}"
    if not outcome.passed:
        outcome.problems.setdefault("run", "no check ran")
    for name, problem in outcome.problems.items():
        print(f"    {name}:\n{problem}", flush=True)
    return outcome


def install(client: Client, folder: Path) -> str:
    """Installs the packages of a client, and returns the program that runs its checks."""
    if client.is_node:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        run(["npm", "install", "--no-audit", "--no-fund", "--no-save", *client.packages], folder)
        return "node"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *client.packages], folder)
    return str(python)


def run_example(name: str, interpreter: str, folder: Path, url: str) -> None:
    """Runs an example with the address of the server."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert ADDRESS in text, f"{name} does not name {ADDRESS}"
    (folder / name).write_text(text.replace(ADDRESS, url), encoding="utf-8")
    run([interpreter, str(folder / name)], folder, OFFLINE)


def run(command: Sequence[str], folder: Path, variables: Mapping[str, str] = {}) -> str:
    """Runs a command, which must succeed, and returns its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NODE_PATH")}
    result = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **variables},
        check=True,
        capture_output=True,
        encoding="utf-8",
        timeout=MINUTES * 60,
    )
    return result.stdout


def table(clients: Mapping[str, Client], outcomes: Mapping[str, Outcome]) -> str:
    """Returns a table of the results in Markdown."""
    lines = ["| client | versions | passed | failed | seconds |", "|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        cells = [clients[name].title, ", ".join(clients[name].packages), ", ".join(outcome.passed)]
        cells += [", ".join(outcome.problems) or "none", f"{outcome.seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
