"""The types of the options of `generate` are of the options that there are."""

from typing import get_type_hints

from convmodel.generation.engine.sampling import HONOURED
from convmodel.generation.option_types import GenerateOptions
from convmodel.generation.options import option_names
from convmodel.hf_model.next_turn import NextTurnHead


def test_every_option_has_a_type_and_no_other() -> None:
    assert set(GenerateOptions.__annotations__) == option_names()
    assert option_names() >= HONOURED


def test_no_option_is_required() -> None:
    assert GenerateOptions.__required_keys__ == frozenset()
    assert get_type_hints(GenerateOptions, localns={"NextTurnHead": NextTurnHead})["max_new_tokens"] == int | None
