"""The checks for a GPU, tried on the CPU with tiny models."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/gpu_check.py"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_check_runs_and_is_right_on_a_cpu() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu"], capture_output=True, text=True, timeout=590, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) >= 2 + 6 + 2 + 2 + 2 + 1 + 1 + 1 + 1
    assert "not run" not in done.stdout
    assert "**wrong**" not in done.stdout
