"""The default model, and how flags become options of `generate`."""

from pathlib import Path

import pytest

from convmodel.cli.console import MODEL_FILES
from convmodel.cli.flags import default_model, sampling_options


def test_the_default_model_is_the_one_that_fit_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_model() == "builtin:chitchat"
    Path("model").mkdir()
    assert default_model() == "builtin:chitchat"
    for file in MODEL_FILES:
        Path("model", file).touch()
        assert default_model() == "model"
        Path("model", file).unlink()


def test_greedy_decoding_takes_no_sampling_options_and_overrides_the_models_own() -> None:
    flags = {"temperature": 0.5, "top_p": 0.9}

    assert sampling_options(greedy=True, max_new_tokens=None, **flags) == {"do_sample": False}
    assert sampling_options(greedy=False, max_new_tokens=7, **flags) == {
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": 7,
        **flags,
    }
