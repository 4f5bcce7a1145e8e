"""The models that tests share. Saved once a run: read them, and copy the folder before writing to it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from serving import Serving

    from convmodel import ConversationModel
    from convmodel.layout.tokenizer import ConversationTokenizer

FAMILIES = ("gpt2", "bytelevel", "unigram", "smollm2")


@pytest.fixture(scope="session")
def zoo_folders(make_once: Callable[..., Path], gpt2_folder: Path) -> dict[str, Path]:
    """A folder for each family of tokenizers, by the family's name."""
    import tokenizers_zoo  # here, because it imports torch, which most tests do without

    others = {family: make_once(family, tokenizers_zoo.SAVE[family]) for family in FAMILIES[1:]}
    return {"gpt2": gpt2_folder} | others


@pytest.fixture(scope="session", params=FAMILIES)
def zoo(request: pytest.FixtureRequest, zoo_folders: dict[str, Path]) -> Path:
    """The folder of one family; a test that takes it runs once for each."""
    return zoo_folders[request.param]


@pytest.fixture(scope="session")
def bytelevel_folder(zoo_folders: dict[str, Path]) -> Path:
    """A tiny Llama with a byte-level tokenizer that has no unknown token."""
    return zoo_folders["bytelevel"]


@pytest.fixture(scope="session")
def unigram_folder(zoo_folders: dict[str, Path]) -> Path:
    """A tiny GPT-2 with a Unigram tokenizer that has its own separator."""
    return zoo_folders["unigram"]


@pytest.fixture(scope="session")
def smollm2_folder(zoo_folders: dict[str, Path]) -> Path:
    """A tiny Llama with a tokenizer in which the unknown and the last token differ."""
    return zoo_folders["smollm2"]


@pytest.fixture(scope="session")
def gpt2_tokenizer(gpt2_folder: Path) -> "ConversationTokenizer":
    """The layout with GPT-2's real vocabulary."""
    from convmodel.layout.tokenizer import ConversationTokenizer

    return ConversationTokenizer.from_pretrained(gpt2_folder)


@pytest.fixture(scope="session")
def bytelevel_tokenizer(bytelevel_folder: Path) -> "ConversationTokenizer":
    """A layout without token types."""
    from convmodel.layout.tokenizer import ConversationTokenizer

    return ConversationTokenizer.from_pretrained(bytelevel_folder)


@pytest.fixture(scope="session")
def family(zoo: Path, gpt2_folder: Path, request: pytest.FixtureRequest) -> "ConversationTokenizer":
    """The layout of one family; a test that takes it runs once for each."""
    from convmodel.layout.tokenizer import ConversationTokenizer

    if zoo == gpt2_folder:
        return request.getfixturevalue("gpt2_tokenizer")
    return ConversationTokenizer.from_pretrained(zoo)


@pytest.fixture(scope="session")
def served_models(gpt2_folder: Path, bytelevel_folder: Path) -> "dict[str, ConversationModel]":
    """Models to serve, whose responses vary: `tiny` with token types and GPT-2's vocabulary, `plain` without types."""
    from scripted import enliven

    from convmodel import ConversationModel

    models = {
        "tiny": ConversationModel.from_pretrained(gpt2_folder, device="cpu"),
        "plain": ConversationModel.from_pretrained(bytelevel_folder, device="cpu"),
    }
    for model in models.values():
        enliven(model.hf_model)
    return models


@pytest.fixture(scope="session")
def server(served_models: "dict[str, ConversationModel]") -> "Iterator[Serving]":
    """A server of both, as it is without any option; for tests that leave it as they found it."""
    from serving import serving

    with serving(served_models) as served:
        yield served
