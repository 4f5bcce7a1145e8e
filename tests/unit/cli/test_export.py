"""What `convmodel export` prints; the command itself is run in `tests/integration/test_export_cli.py`."""

import os
import signal
from pathlib import Path

import pytest

from convmodel.cli.export import _next_step, _print, _stoppable
from convmodel.errors import StoppedError
from convmodel.export.exporting import Exported
from convmodel.export.proof_result import Perplexity, Proof
from convmodel.files.atomic import staged


def exported(path: Path, **changes: object) -> Exported:
    values: dict[str, object] = {"path": path, "size": 2_000_000, "types": {"q4_0": 7, "f32": 3}, "proof": None}
    return Exported(**values | changes)  # type: ignore[arg-type]


def test_costly_rounding_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proof = Proof("q4_0", 12, 900, 3, 0, 0, 0, 0.0, 1, Perplexity(500, 20.0, 24.0, 0.01), ())
    _print(exported(tmp_path / "bot.gguf", proof=proof))
    shown = capfd.readouterr().err
    assert "bot.gguf: 2 MB (7 tensors q4_0, 3 tensors f32)" in shown
    assert "rounding to q4_0 raises the perplexity by 20%: q8_0 and f16 keep more" in shown


def test_names_are_quoted_and_fit_ollama(tmp_path: Path) -> None:
    (tmp_path / "My bot").mkdir()
    shown = _next_step(exported(tmp_path / "My bot"))
    assert shown == f"Use it:  ollama create my-bot -f '{tmp_path}/My bot/Modelfile' && ollama run my-bot"
    assert _next_step(exported(tmp_path / "my bot.gguf")).startswith(f"Use it:  llama-cli -m '{tmp_path}/my bot.gguf'")


def test_the_next_step_is_that_of_the_program(tmp_path: Path) -> None:
    assert "ollama create" in _next_step(exported(tmp_path))
    assert "llama-cli -m" in _next_step(exported(tmp_path / "bot.gguf"))
    assert "in a browser" in _next_step(exported(tmp_path / "bot.html", types={}))


def test_a_signal_leaves_nothing_behind(tmp_path: Path) -> None:
    def export() -> None:
        with _stoppable(), staged(tmp_path) as stage:
            (stage / "bot.gguf").write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="nothing was written"):
        export()
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
