"""GGUF files: which names are theirs, what their headers hold, and the one sentence for those that cannot be loaded."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import write_gguf

from convmodel.errors import MissingExtraError, ModelLoadError
from convmodel.files.download import reachable_options, weights_to_download
from convmodel.files.gguf import is_gguf, read_header, write_settings
from convmodel.files.hub import adapter_folder, find_file, gguf_path


@pytest.fixture
def file(smollm2_folder: Path, tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", smollm2_folder, kind="Q8_0")


def test_a_gguf_file_has_the_suffix_or_begins_with_its_name(file: Path, tmp_path: Path) -> None:
    blob = file.rename(tmp_path / "sha256-0123")  # as Ollama keeps it
    other = tmp_path / "other"
    other.write_text("GGML")
    assert [is_gguf(str(name)) for name in (blob, other, tmp_path, "gpt2", tmp_path / "none.GGUF", "a\0b")] == [
        True, False, False, False, True, False,
    ]  # fmt: skip
    assert gguf_path(str(blob), {}) == blob
    assert gguf_path("gpt2", {}) is gguf_path(str(tmp_path), {}) is None


def test_the_header_has_the_settings_and_the_places_of_weights(file: Path, smollm2_folder: Path) -> None:
    header = read_header(file)
    assert (header.architecture, header.quantization, header.size) == ("llama", "Q8_0", file.stat().st_size)
    assert header.metadata["llama.embedding_length"] == 32
    assert header.metadata["tokenizer.ggml.tokens"] > 256
    first = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert first.shape == (header.metadata["tokenizer.ggml.tokens"], 32)


def test_without_a_type_of_file_most_weights_say_the_quantization(smollm2_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", smollm2_folder, kind="Q8_0", extra={"general.name": "A"})
    content = file.read_bytes().replace(b"general.file_type", b"general.file_tyqe")
    file.write_bytes(content)
    assert read_header(file).quantization == "Q8_0"


def test_the_settings_alone_are_small_and_readable(file: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.gguf"
    write_settings(read_header(file), settings)
    small, whole = read_header(settings), read_header(file)
    assert settings.stat().st_size < 4000
    assert {tensor.name for tensor in small.tensors} == {tensor.name for tensor in whole.tensors}
    kept = {name: value for name, value in whole.metadata.items() if name not in whole.arrays}
    assert small.metadata == kept | {"llama.vocab_size": whole.metadata["tokenizer.ggml.tokens"]}


def test_a_file_needs_neither_the_hub_nor_its_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(file.parent)  # a name without a slash
    assert reachable_options("model.gguf", {}) == {}
    assert weights_to_download("model.gguf", {}) == {}
    assert adapter_folder("model.gguf", {}) is find_file("model.gguf", "config.json", {}) is None


def test_the_option_names_a_file_in_a_folder(file: Path) -> None:
    assert gguf_path(str(file.parent), {"gguf_file": "model.gguf"}) == file
    with pytest.raises(ModelLoadError, match=r"has no file other\.gguf: check the name"):
        gguf_path(str(file.parent), {"gguf_file": "other.gguf"})


def _cut(content: bytes) -> bytes:
    return content[: len(content) - 100]


def _cut_in_header(content: bytes) -> bytes:
    return content[:200]


def _other_version(content: bytes) -> bytes:
    return content[:4] + struct.pack(">I", 3) + content[8:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, r"model\.gguf is cut off or damaged: download it again"),
        (_cut_in_header, "is cut off or damaged: download it again"),
        (lambda content: b"", "is not a GGUF file, which begins with GGUF"),
        (lambda content: b"version https://git-lfs", "is not a GGUF file"),
        (_other_version, "is of version 50331648 of the GGUF format, or big-endian; versions 2 and 3 can be read"),
    ],
)
def test_an_unusable_file_is_refused_at_once(file: Path, change: Callable[[bytes], bytes], message: str) -> None:
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ModelLoadError, match=message):
        reachable_options(str(file), {})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"split.count": 3}, "is one of 3 parts of a model: merge them .*llama-gguf-split --merge"),
        ({"general.type": "adapter"}, "is not a whole model but of the kind adapter"),
        ({"general.type": "mmproj"}, "is not a whole model but of the kind mmproj"),
    ],
)
def test_a_part_of_a_model_is_refused(
    smollm2_folder: Path, tmp_path: Path, extra: dict[str, object], message: str
) -> None:
    file = write_gguf(tmp_path / "part.gguf", smollm2_folder, extra=extra)
    with pytest.raises(ModelLoadError, match=message):
        read_header(file)


def test_a_file_that_is_not_there_is_named_with_one_beside_it(file: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"there is no file .*modl\.gguf: did you mean .*model\.gguf\?"):
        reachable_options(str(file.with_name("modl.gguf")), {})
    with pytest.raises(ModelLoadError, match=r"there is no file /no/such\.gguf: check the path"):
        reachable_options("/no/such.gguf", {})


def test_the_package_is_needed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"need the package gguf \(the extra export\): .*pip install "):
        reachable_options(str(file), {})
