"""Checks a release as a new user gets it: new environments, an empty folder, no source tree.

    python scripts/release_check.py                         # builds into dist/ and checks everything
    python scripts/release_check.py --resume                # checks what dist/ has not passed yet, without building
    python scripts/release_check.py --only files wheel      # some of the checks
    python scripts/release_check.py --quick                 # these two

`files` reads the wheel and the source archive: metadata, licences, contents, sizes. `wheel`, `wheel[EXTRA]`, `sdist`
and `sdist[EXTRA]` install one of them into an environment of its own, at the versions of `constraints.txt`, and run the
commands that it should have; extras for the work on convmodel itself are left out. Stops at the first failure.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from build_dist import ROOT, build
from release_files import PROJECT, check_files
from release_serve import check_server

STATE = ROOT / "build/release-check.json"  # which checks have passed, with the hash of the file that passed
MODEL = "builtin:chitchat"
DEVELOPERS = {"dev", "docs"}  # extras that `make setup` and `make site` install
MINUTES = 30  # that a command may take; installing downloads gigabytes
ALONE = {"pip", "setuptools"}  # what Python itself puts into a new environment
MISSING: Mapping[str, str] = {
    f"serve {MODEL}": "serve",
    "import talks.jsonl --near 0.8 --output near": "train",
    "demo": "train",
    f"evaluate {MODEL} --data talks.jsonl --report report.html": "eval",
    f"export {MODEL} -o bot.gguf": "export",
}
"""Commands that need an extra: without it, their error must give the command that installs it."""
TALKS = "".join(f'["Hello", "Hi, how are you?", "Good, {number} times!"]\n' for number in range(20))
IN_PYTHON = f"""
from convmodel import ConversationModel
print(ConversationModel.from_pretrained({MODEL!r}).generate(["Hello"], max_new_tokens=20).responses[0])
"""
EXPORT = f"""
from transformers import LlamaConfig
from convmodel import ConversationModel, ConversationTokenizer
tokenizer = ConversationTokenizer.from_pretrained({MODEL!r})
sizes = {{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}}
model = ConversationModel.from_config(LlamaConfig(vocab_size=len(tokenizer.hf_tokenizer), **sizes), tokenizer)
print(model.export("bot.gguf"))
"""


class Environment(NamedTuple):
    """A new environment, an empty folder to run commands in, and the variables that they see."""

    programs: Path
    folder: Path
    variables: dict[str, str]

    def run(self, step: str, *command: str | Path, text: str = "", fails: bool = False) -> str:
        """Runs a command, which must end as expected, prints its time, and returns its output, or its error."""
        begin = time.perf_counter()
        try:
            result = subprocess.run(
                [str(part) for part in command],
                cwd=self.folder,
                env=self.variables,
                input=text,
                capture_output=True,
                text=True,
                timeout=MINUTES * 60,
            )
        except subprocess.TimeoutExpired as error:
            sys.exit(f"{step} did not end within {MINUTES} minutes:\n{error.stdout}\n{error.stderr}")
        if (result.returncode != 0) != fails:
            sys.exit(
                f"{step} ended with exit code {result.returncode}:\n{result.stdout[-3000:]}{result.stderr[-6000:]}"
            )
        print(f"    {step}: {time.perf_counter() - begin:.1f} s", flush=True)
        return result.stderr if fails else result.stdout

    def convmodel(self, line: str, text: str = "", *, fails: bool = False) -> str:
        """Runs `convmodel` with the arguments of a line."""
        return self.run(line.split()[0], self.programs / "convmodel", *shlex.split(line), text=text, fails=fails)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", action="store_true", help="do not build, and leave out what has passed")
    parser.add_argument("--quick", action="store_true", help="the checks `files` and `wheel` alone")
    parser.add_argument("--only", nargs="+", metavar="CHECK", choices=[*checks()], help="these checks alone")
    options = parser.parse_args()

    begin = time.perf_counter()
    if not options.resume:
        STATE.unlink(missing_ok=True)
        build(ROOT / "dist")
        print(f"build: {time.perf_counter() - begin:.1f} s", flush=True)
    files = find_files(ROOT / "dist")
    names = options.only or (["files", "wheel"] if options.quick else [*checks()])
    for number, name in enumerate(names, 1):
        begin_check = time.perf_counter()
        digest = "".join(sha256(path) for path in files.values() if name == "files" or path == file_of(name, files))
        if read_state().get(name) == digest:
            print(f"{name} ({number} of {len(names)}): passed before", flush=True)
            continue
        print(f"{name} ({number} of {len(names)}):", flush=True)
        checks()[name](files)
        write_state(name, digest)
        print(f"    passed after {time.perf_counter() - begin_check:.0f} s", flush=True)
    print(f"{len(names)} checks passed in {(time.perf_counter() - begin) / 60:.1f} minutes.")


def checks() -> dict[str, Callable[[Mapping[str, Path]], None]]:
    """Every check by its name, in the order of time that they take."""
    extras = [extra for extra in PROJECT["optional-dependencies"] if extra not in DEVELOPERS]
    if without := set(extras) - EXERCISES.keys():
        sys.exit(f"no check runs the extra {', '.join(without)}: add it to EXERCISES in {Path(__file__).name}")
    result: dict[str, Callable[[Mapping[str, Path]], None]] = {"files": check_files}
    for kind in ("wheel", "sdist"):
        for extra in ("", *extras):
            result[f"{kind}[{extra}]" if extra else kind] = lambda files, k=kind, e=extra: check_installed(files[k], e)
    return result


def find_files(folder: Path) -> dict[str, Path]:
    """The wheel and the source archive of this version."""
    stem = f"{PROJECT['name']}-{PROJECT['version']}"
    files = {}
    for kind, pattern in (("wheel", f"{stem}-*.whl"), ("sdist", f"{stem}.tar.gz")):
        paths = sorted(folder.glob(pattern))
        if len(paths) != 1:
            sys.exit(f"{folder} has {len(paths)} files {pattern}, not one: run `make clean release-check`")
        files[kind] = paths[0]
    return files


def file_of(check: str, files: Mapping[str, Path]) -> Path | None:
    return files.get(check.partition("[")[0])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_state() -> dict[str, str]:
    return json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {}


def write_state(name: str, digest: str) -> None:
    STATE.parent.mkdir(exist_ok=True)
    STATE.write_text(json.dumps(read_state() | {name: digest}, indent=1), encoding="utf-8")


def check_installed(file: Path, extra: str) -> None:
    """Installs a file with an extra, or with none, into a new environment, and runs what it should have."""
    with tempfile.TemporaryDirectory(prefix="convmodel-release-") as temporary:
        environment = make_environment(Path(temporary))
        install = [environment.programs / "python", "-m", "pip", "install", "-q", "--no-compile"]
        environment.run("install", *install, f"{file}[{extra}]" if extra else str(file))
        environment.run("pip check", environment.programs / "python", "-m", "pip", "check")
        for exercise in EXERCISES[extra]:
            exercise(environment)


def make_environment(folder: Path) -> Environment:
    """Makes an environment without any package, an empty folder, and variables without traces of this one."""
    venv.create(folder / "venv", with_pip=True)
    for name in ("empty", "home"):
        (folder / name).mkdir()
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CONVMODEL_"))}
    variables.setdefault("PIP_CACHE_DIR", pip_cache())
    variables |= {"HOME": str(folder / "home"), "USERPROFILE": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    variables |= {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    variables["PATH"] = f"{programs}{os.pathsep}{variables.get('PATH', '')}"  # as activated
    environment = Environment(programs, folder / "empty", variables)
    listed = json.loads(environment.run("environment", programs / "python", "-m", "pip", "list", "--format", "json"))
    if other := {package["name"] for package in listed} - ALONE:
        sys.exit(f"the new environment is not empty: it has {', '.join(sorted(other))}")
    return environment


def pip_cache() -> str:
    """The folder of pip's cache, which the environments share: the home folder of each is its own."""
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_basics(environment: Environment) -> None:
    """Help, a response from the command line and from Python, one turn of a chat; none of them leaves a file."""
    if PROJECT["version"] not in environment.convmodel("--version"):
        sys.exit(f"convmodel --version does not print {PROJECT['version']}")
    environment.convmodel("--help")
    environment.convmodel(f"generate Hello --model {MODEL} --seed 1")
    environment.run("Python", environment.programs / "python", "-c", IN_PYTHON)
    response = environment.convmodel(f"chat --model {MODEL} --no-history", text="Hello\n/quit\n")
    if not response.strip():
        sys.exit("convmodel chat printed no response")
    leftovers = sorted(path.name for path in environment.folder.iterdir())
    if leftovers:
        sys.exit(f"the commands left files behind: {', '.join(leftovers)}")
    environment.convmodel(f"export {MODEL} -o bot.html")


def run_without_extras(environment: Environment) -> None:
    """An import works; commands that need an extra report the command that installs it, after which the server runs."""
    (environment.folder / "talks.jsonl").write_text(TALKS, encoding="utf-8")
    if "near-duplicates were not looked for" not in environment.convmodel("import talks.jsonl --json"):
        sys.exit("convmodel import does not report that it looks for exact duplicates alone")
    fixes = {}
    for line, extra in MISSING.items():
        error = " ".join(environment.convmodel(line, fails=True).split())
        _, marker, fix = error.partition(f"(the extra {extra}): ")
        if not (marker and fix.startswith("pip install ")):
            sys.exit(f"the error of `convmodel {line}` has no command that installs {extra}:\n{error[-2000:]}")
        fixes[extra] = fix
    environment.run(fixes["serve"], *shlex.split(fixes["serve"]), "-q", "--no-compile")
    run_server(environment)


def run_server(environment: Environment) -> None:
    begin = time.perf_counter()
    check_server([str(environment.programs / "convmodel"), "serve", MODEL], environment.folder, environment.variables)
    print(f"    serve: {time.perf_counter() - begin:.1f} s", flush=True)


def run_demo(environment: Environment) -> None:
    environment.convmodel("demo --epochs 0.1")
    environment.convmodel("generate Hello --model demo/model")


def run_evaluation(environment: Environment) -> None:
    (environment.folder / "talks.jsonl").write_text(TALKS, encoding="utf-8")
    environment.convmodel(f"evaluate {MODEL} --data talks.jsonl --report report.html")


def run_export(environment: Environment) -> None:
    environment.run("export, run by llama.cpp", environment.programs / "python", "-c", EXPORT)


def run_ray(environment: Environment) -> None:
    environment.run("ray", environment.programs / "python", "-c", "import convmodel.server.ray_app")


EXERCISES: Mapping[str, Sequence[Callable[[Environment], None]]] = {
    "": (run_basics, run_without_extras),
    "train": (run_demo,),
    "eval": (run_evaluation,),
    "serve": (run_server,),
    "export": (run_export,),
    "ray": (run_ray,),
    "all": (run_demo, run_evaluation, run_server),
}
"""What is run after an installation, by extra."""


if __name__ == "__main__":
    main()
