"""Tests the built wheel as a stranger meets it: a new environment, an empty folder, no source tree.

    python scripts/smoke_test.py                # builds the wheel first
    python scripts/smoke_test.py dist/X.whl     # tests this one

Installs the wheel without extras at the versions of `constraints.txt`, prints the help, and generates a response with
the built-in model from the command line and from Python. Stops at the first command that fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODEL = "builtin:chitchat"
LINES = f"""
from convmodel import ConversationModel
print(ConversationModel.from_pretrained({MODEL!r}).generate(["Hello"], max_new_tokens=20).responses[0])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", nargs="?", type=Path, help="the wheel to test; built from this folder if left out")
    wheel = parser.parse_args().wheel
    # The environment of a stranger: the source tree is not on the path, and there is no Hub.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["HF_HUB_OFFLINE"] = "1"

    with tempfile.TemporaryDirectory(prefix="convmodel-smoke-") as temporary:
        folder = Path(temporary)
        if wheel is None:
            run("build", [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], environment)
            [wheel] = folder.glob("*.whl")
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        constraints = ROOT / "constraints.txt"
        install = [str(programs / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run("install", [*install, "-c", str(constraints), str(wheel.resolve())], environment)

        empty = folder / "empty"
        empty.mkdir()
        convmodel = str(programs / "convmodel")
        run("help", [convmodel, "--help"], environment, empty)
        run("generate", [convmodel, "generate", "Hello", "--model", MODEL, "--seed", "1"], environment, empty)
        run("Python", [str(programs / "python"), "-c", LINES], environment, empty)
        left = sorted(path.name for path in empty.iterdir())
        if left:
            sys.exit(f"The commands left files behind: {', '.join(left)}.")
    print("The wheel works.")


def run(step: str, command: list[str], environment: dict[str, str], folder: Path = ROOT) -> None:
    """Runs a command that must succeed and print something unless it is an installation; prints its time."""
    begin = time.perf_counter()
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode or (folder != ROOT and not result.stdout.strip()):
        sys.exit(f"{step} failed with exit code {result.returncode}:\n{result.stdout}{result.stderr}")
    last = result.stdout.strip().splitlines()[-1:]
    print(f"{step}: {time.perf_counter() - begin:.1f} s", *(last if folder != ROOT else []))


if __name__ == "__main__":
    main()
