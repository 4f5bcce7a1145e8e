"""The layout as templates in Jinja and Go: they write the text of the layout's ids."""

import json
from pathlib import Path

import pytest
from chat_templates import FORMS, make_tokenizer
from export_models import make_model

from convmodel import Conversation, ConversationTokenizer
from convmodel.export.gguf_vocabulary import Vocabulary, vocabulary_of
from convmodel.export.go_template import render
from convmodel.export.turn_templates import turn_templates

SHAPES = ("user", "user assistant user", "system user", "assistant user", "system user assistant user assistant user")
TEXTS = ("Hello there", "How are you?", "Fine", "Good", "Bye", "See you")
GOLDEN = Path(__file__).parents[2] / "golden/turn_templates.json"


def tokenizers() -> dict[str, ConversationTokenizer]:
    found = {
        name: ConversationTokenizer(make_tokenizer(form.template, form.specials, has_prefix=form.has_prefix))
        for name, form in FORMS.items()
    }
    return found | {"separator": make_model("gpt2").tokenizer}


TOKENIZERS = tokenizers()


def written(vocabulary: Vocabulary, tokenizer: ConversationTokenizer, ids: list[int]) -> str:
    """The text of ids, of control tokens their new names."""
    hf_tokenizer, text, run = tokenizer.hf_tokenizer, "", list[int]()
    for index in [*ids, None]:
        if index in vocabulary.names or index is None:
            text += hf_tokenizer.decode(run)
            text += vocabulary.names[index] if index is not None else ""
            run = []
        else:
            run.append(index)
    return text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_both_languages_write_the_prompt_of_the_layout(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    vocabulary = vocabulary_of(tokenizer, len(tokenizer))
    templates = turn_templates(tokenizer, vocabulary)
    rendered = 0
    for shape in SHAPES:
        messages = [{"role": role, "content": text} for role, text in zip(shape.split(), TEXTS, strict=False)]
        context = Conversation.from_messages(messages)
        if not tokenizer.layout.markers.follows("start", shape.split()[0]) and tokenizer.layout.template is not None:
            continue
        expected = written(vocabulary, tokenizer, tokenizer.prompt(context).input_ids)
        options = {"chat_template": templates.jinja(), "tokenize": False, "add_generation_prompt": True}
        jinja = tokenizer.hf_tokenizer.apply_chat_template(messages, **options)
        assert jinja.replace(" ", "") == expected.replace(" ", "")  # decoding drops spaces that stand in front
        assert templates.bos + render(templates.go(), messages) == jinja
        rendered += 1
    assert rendered >= 2


def test_consecutive_turns_of_a_role_are_joined_by_a_line_end() -> None:
    tokenizer = TOKENIZERS["chatml"]
    templates = turn_templates(tokenizer, vocabulary_of(tokenizer, len(tokenizer)))
    messages = [{"role": "user", "content": "Hello"}, {"role": "user", "content": "there"}]
    assert "Hello\nthere" in render(templates.go(), messages)


def test_a_role_without_a_place_is_an_error_in_jinja() -> None:
    tokenizer = TOKENIZERS["mistral"]
    templates = turn_templates(tokenizer, vocabulary_of(tokenizer, len(tokenizer)))
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    with pytest.raises(Exception, match="a message of the system has no place here"):
        tokenizer.hf_tokenizer.apply_chat_template(messages, chat_template=templates.jinja())


def test_ollama_leaves_out_a_role_without_a_place() -> None:
    """Its templates cannot refuse it, and the others must stand as without it."""
    tokenizer = TOKENIZERS["mistral"]
    go = turn_templates(tokenizer, vocabulary_of(tokenizer, len(tokenizer))).go()
    user = {"role": "user", "content": "Hello"}
    assert render(go, [{"role": "system", "content": "Be brief."}, user]) == render(go, [user])


@pytest.mark.parametrize("how", ["strip", "lstrip", "rstrip"])
def test_texts_are_trimmed_as_the_layout_trims_them(how: str) -> None:
    form = FORMS["chatml"]
    template = form.template.replace("message.content +", f"message.content.{how}() +")
    tokenizer = ConversationTokenizer(make_tokenizer(template, form.specials))
    templates = turn_templates(tokenizer, vocabulary_of(tokenizer, len(tokenizer)))
    options = {"chat_template": templates.jinja(), "tokenize": False}
    jinja = tokenizer.hf_tokenizer.apply_chat_template([{"role": "user", "content": "  hi  "}], **options)
    assert f"user\n{getattr('  hi  ', how)()}<" in jinja


def test_white_space_in_front_is_left_out_where_the_vocabulary_would_join_it() -> None:
    """As SmolLM2's, whose vocabulary has an entry for two line ends."""
    hf_tokenizer = make_tokenizer(FORMS["chatml"].template, FORMS["chatml"].specials)
    state = json.loads(hf_tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["ĊĊ"] = len(hf_tokenizer)
    state["model"]["merges"].append(["Ċ", "Ċ"])
    hf_tokenizer._tokenizer = hf_tokenizer.backend_tokenizer.from_str(json.dumps(state))
    tokenizer = ConversationTokenizer(hf_tokenizer)
    templates = turn_templates(tokenizer, vocabulary_of(tokenizer, len(tokenizer)))
    assert templates.trims_start
    assert templates.content("user", "\n x ") == "x "
    assert ".lstrip()" in templates.jinja()
    hf_tokenizer.chat_template = FORMS["chatml"].template.replace("message.content +", "message.content.rstrip() +")
    trimming = ConversationTokenizer(hf_tokenizer)
    templates = turn_templates(trimming, vocabulary_of(trimming, len(trimming)))
    assert set(templates.trims.values()) == {"strip"}  # the layout's trimming at the end, and ours at the start
    assert templates.content("user", "\n x ") == "x "
    assert not turn_templates(TOKENIZERS["separator"], vocabulary_of(TOKENIZERS["separator"], 420)).trims_start


@pytest.mark.parametrize("name", ["separator", "chatml", "gemma"])
def test_templates_are_written_as_they_were(name: str) -> None:
    """To look at in review; `python tests/unit/export/test_turn_templates.py` writes them again."""
    assert golden(name) == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


def golden(name: str) -> dict[str, str]:
    vocabulary = vocabulary_of(TOKENIZERS[name], len(TOKENIZERS[name]))
    templates = turn_templates(TOKENIZERS[name], vocabulary)
    [suffix] = {token.rpartition("-")[2] for token in vocabulary.names.values()}
    return {"jinja": templates.jinja().replace(suffix, "0"), "go": templates.go().replace(suffix, "0")}


if __name__ == "__main__":
    content = {name: golden(name) for name in ("separator", "chatml", "gemma")}
    GOLDEN.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
