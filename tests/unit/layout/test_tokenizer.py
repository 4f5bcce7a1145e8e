"""Conversations to ids and back: prompts, responders, windows, and the saved form."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, T5Tokenizer

import tokenizers_zoo
from convmodel.conversation import Conversation
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError, ModelLoadError, SaveError
from convmodel.layout.config import FILE_NAME
from convmodel.layout.sequence import IGNORED
from convmodel.layout.tokenizer import ConversationTokenizer

CONTEXT = ["Hello, how are you today?", "元気です 🍕\nAnd you?", "<|endoftext|> <sep> [SEP]"]
MESSAGES = Conversation(CONTEXT[:2]).to_messages()


@pytest.fixture(scope="module")
def rounds(family: ConversationTokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of a tokenizer that was saved, loaded, and saved again."""
    root = tmp_path_factory.mktemp("rounds")
    family.save_pretrained(root / "1")
    ConversationTokenizer.from_pretrained(root / "1").save_pretrained(root / "2")
    return [root / "1", root / "2"]


@pytest.fixture
def saved(bytelevel_tokenizer: ConversationTokenizer, tmp_path: Path) -> Path:
    """A saved tokenizer that a test may spoil."""
    bytelevel_tokenizer.save_pretrained(tmp_path)
    return tmp_path


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


# --- encoding ---


def test_an_encoding_is_plain_lists_in_order(gpt2_tokenizer: ConversationTokenizer) -> None:
    encoding = gpt2_tokenizer(["Hello"])
    assert type(encoding) is dict
    assert list(encoding) == ["input_ids", "token_type_ids", "attention_mask"]
    assert all(type(values) is list and all(type(i) is int for i in values) for values in encoding.values())


def test_families_without_token_types_get_none(family: ConversationTokenizer) -> None:
    encoding = family(["Hello", "How are you"])
    assert ("token_type_ids" in encoding) is family.layout.use_token_types
    assert encoding["input_ids"].count(family.sep_token_id) == 3
    assert encoding["attention_mask"] == [1] * len(encoding["input_ids"])


def test_turns_are_encoded_each_on_its_own(gpt2_tokenizer: ConversationTokenizer) -> None:
    # "Hel" and "lo" do not become "Hello" across a separator: 12621 and 5439 in GPT-2's vocabulary.
    assert gpt2_tokenizer(["Hel", "lo"])["input_ids"] == [50256, 12621, 50256, 5439, 50256]


def test_special_tokens_that_a_tokenizer_adds_by_itself_are_not_added(family: ConversationTokenizer) -> None:
    hf_tokenizer = family.hf_tokenizer
    others = set(hf_tokenizer.all_special_ids) - family.layout.control_ids
    assert others.isdisjoint(family(["Hello", "How are you"])["input_ids"])


def test_a_layout_begins_with_bos_where_the_tokenizer_does(family: ConversationTokenizer) -> None:
    plain = family.with_layout(bos_id=None)
    begins = family.hf_tokenizer("")["input_ids"][:1] == [family.hf_tokenizer.bos_token_id]
    bos = [family.hf_tokenizer.bos_token_id] if begins else []
    assert family(CONTEXT[:2])["input_ids"] == bos + plain(CONTEXT[:2])["input_ids"]
    assert family.prompt_to_continue("Hi").input_ids == [*bos, family.sep_token_id, *family.encode("Hi")]
    assert family.layout.shortest_prompt == len(bos) + 3


def test_only_the_bytelevel_family_begins_with_bos(zoo: Path, zoo_folders: dict[str, Path]) -> None:
    layout = ConversationTokenizer.from_pretrained(zoo).layout
    assert (layout.bos_id is not None) is (zoo == zoo_folders["bytelevel"])


def test_every_window_begins_with_bos_once(bytelevel_tokenizer: ConversationTokenizer) -> None:
    tokenizer, bos = bytelevel_tokenizer, bytelevel_tokenizer.hf_tokenizer.bos_token_id
    windows = tokenizer.windows(["Good morning!", "Did you sleep well?"] * 8, max_length=40)
    assert len(windows) > 2
    for window in windows:
        assert window.input_ids[:2] == [bos, tokenizer.sep_token_id]
        assert window.input_ids.count(bos) == 1
        assert window.types[0] == window.types[1]
        assert window.labels[:2] == [IGNORED, IGNORED]
        assert len(window.input_ids) <= 40


@pytest.mark.parametrize("budget", [12, 16, 24, 40])
def test_a_prompt_that_leaves_out_turns_begins_with_bos(
    budget: int, bytelevel_tokenizer: ConversationTokenizer
) -> None:
    tokenizer = bytelevel_tokenizer
    prompt = tokenizer.prompt(["Good morning!", "Did you sleep well?"] * 8, budget=budget, cut_long_turn=True)
    assert prompt.left_out > 0
    assert len(prompt.input_ids) == len(prompt.types) <= budget
    assert prompt.input_ids[:2] == [tokenizer.layout.bos_id, tokenizer.sep_token_id]


def test_a_beginning_token_that_the_tokenizer_does_not_have_is_refused(saved: Path) -> None:
    change(saved / FILE_NAME, bos_id=7)
    with pytest.raises(ModelLoadError, match="beginning-of-text token 7, but the tokenizer in the same folder has 400"):
        ConversationTokenizer.from_pretrained(saved)


def test_a_folder_saved_without_the_key_has_no_bos(saved: Path) -> None:
    content = json.loads((saved / FILE_NAME).read_text(encoding="utf-8"))
    del content["bos_id"]
    (saved / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    tokenizer = ConversationTokenizer.from_pretrained(saved)
    assert tokenizer(["Hi"])["input_ids"] == [tokenizer.sep_token_id, *tokenizer.encode("Hi"), tokenizer.sep_token_id]
    assert "bos" not in tokenizer.hf_tokenizer.chat_template


@pytest.mark.slow
def test_a_bos_that_is_the_separator_comes_once(gpt2_folder: Path) -> None:
    hf_tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    hf_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 50256)]
    )
    assert hf_tokenizer("Hello")["input_ids"] == [50256, 15496]
    assert ConversationTokenizer(hf_tokenizer)(["Hello"])["input_ids"] == [50256, 15496, 50256]


def test_messages_and_turns_give_the_same_ids(family: ConversationTokenizer) -> None:
    assert family(MESSAGES) == family(CONTEXT[:2]) == family(Conversation(CONTEXT[:2]))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("Hello", "not one string"),
        ([], "empty"),
        ([""], "turn 1 is empty"),
        (["Hi", " \n"], "turn 2 is empty"),
        (["Hi", 3], "turn 2 is int"),
        (["\ud83c"], "half a surrogate pair"),
    ],
)
def test_malformed_contexts_are_refused(context: Any, message: str, bytelevel_tokenizer: ConversationTokenizer) -> None:
    for encode in (bytelevel_tokenizer, bytelevel_tokenizer.prompt):
        with pytest.raises(ConversationError, match=message):
            encode(context)
    with pytest.raises(ConversationError, match=message):
        bytelevel_tokenizer.windows(context, max_length=20)


# --- text and back ---


@pytest.mark.parametrize(
    "text",
    [
        "Hello, how are you?",
        "I love 🍕!",
        "👩‍👩‍👧‍👦 and 🇯🇵",
        "こんにちは、お元気ですか。",
        "私も🙂です",
        "one\ntwo\n\nthree",
        "a  b   c ",
        "tabs\tand\r\nreturns",
        "Zoë's naïve café",
        "2,750,000",
        "<0x41> \\u0041",
    ],
)
def test_text_comes_back_as_it_was(family: ConversationTokenizer, text: str) -> None:
    assert family.decode(family.encode(text)) == text


@pytest.mark.parametrize("family_name", ["gpt2", "bytelevel", "smollm2"])
@given(text=st.text())
def test_byte_level_families_hold_any_text(family_name: str, byte_level: Any, text: str) -> None:
    tokenizer = byte_level[family_name]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text())
def test_a_unigram_family_holds_any_text_in_normal_form(unigram_tokenizer: ConversationTokenizer, text: str) -> None:
    # Its mark of a space is the one character it cannot hold, and a space at the beginning is the mark itself.
    text = unicodedata.normalize("NFKC", text).replace("▁", "").lstrip(" ")
    assert unigram_tokenizer.decode(unigram_tokenizer.encode(text)) == text


@pytest.fixture(scope="module")
def byte_level(
    gpt2_tokenizer: ConversationTokenizer, bytelevel_tokenizer: ConversationTokenizer, smollm2_folder: Path
) -> dict[str, ConversationTokenizer]:
    smollm2 = ConversationTokenizer.from_pretrained(smollm2_folder)
    return {"gpt2": gpt2_tokenizer, "bytelevel": bytelevel_tokenizer, "smollm2": smollm2}


@pytest.fixture(scope="module")
def unigram_tokenizer(unigram_folder: Path) -> ConversationTokenizer:
    return ConversationTokenizer.from_pretrained(unigram_folder)


def test_decoding_leaves_separators_out(family: ConversationTokenizer) -> None:
    ids = [family.sep_token_id, *family.encode("Hello"), family.sep_token_id]
    assert family.decode(ids) == "Hello"


# --- who responds ---


@pytest.mark.parametrize(
    ("speakers", "reply_as", "types"),
    [
        (["Ann"], None, [0, 0, 1]),
        (["Ann", "Bob"], None, [0, 0, 1, 1, 0]),
        (["Ann", "Bob"], "Bob", [0, 0, 1, 1, 1]),
        (["Ann", "Bob"], "Cem", [0, 0, 1, 1, 2]),
        (["Ann", "Bob", "Cem"], None, [0, 0, 1, 1, 2, 2, 1]),
        (["Ann", "Bob", "Cem"], "Ann", [0, 0, 1, 1, 2, 2, 0]),
    ],
)
def test_the_last_separator_has_the_type_of_the_responder(
    speakers: list[str], reply_as: str | None, types: list[int], gpt2_tokenizer: ConversationTokenizer
) -> None:
    context = Conversation(["Hello"] * len(speakers), speakers)
    assert gpt2_tokenizer(context, reply_as=reply_as)["token_type_ids"] == types


def test_without_types_nobody_responds_to_themselves(bytelevel_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConversationError, match="'Bob' spoke last and is to respond"):
        bytelevel_tokenizer(Conversation(["Hi", "Hello"], ["Ann", "Bob"]), reply_as="Bob")


def test_without_types_two_speakers_may_be_anyone(bytelevel_tokenizer: ConversationTokenizer) -> None:
    named = Conversation(["Hi", "Hello"], ["Ann", "Bob"])
    assert bytelevel_tokenizer(named, reply_as="Ann") == bytelevel_tokenizer(["Hi", "Hello"])


def test_without_types_three_speakers_are_an_error_that_says_so(bytelevel_tokenizer: ConversationTokenizer) -> None:
    three = Conversation(["a", "b", "c"], ["Ann", "Bob", "Cem"])
    message = r"3 speakers \(Ann, Bob, Cem\), but this model has no token types"
    with pytest.raises(ConversationError, match=message):
        bytelevel_tokenizer(three)
    with pytest.raises(ConversationError, match=message):
        bytelevel_tokenizer.windows(three, max_length=20)


def test_without_types_a_third_speaker_cannot_respond(bytelevel_tokenizer: ConversationTokenizer) -> None:
    # The response could not be added to the conversation afterwards, and looks like Ann's.
    with pytest.raises(ConversationError, match="3 speakers"):
        bytelevel_tokenizer(Conversation(["a", "b"], ["Ann", "Bob"]), reply_as="Cem")


def test_without_types_a_pinned_speaker_does_not_count(bytelevel_tokenizer: ConversationTokenizer) -> None:
    pinned = Conversation(["Be kind.", "Hi", "Hello"], ["system", "user", "assistant"], pinned=1)
    assert bytelevel_tokenizer(pinned) == bytelevel_tokenizer(["Be kind.", "Hi", "Hello"])


def test_without_types_turns_of_one_speaker_are_joined_by_a_newline(bytelevel_tokenizer: ConversationTokenizer) -> None:
    apart = Conversation(["Hi", "Anyone?", "Yes"], ["Ann", "Ann", "Bob"])
    assert bytelevel_tokenizer(apart) == bytelevel_tokenizer(["Hi\nAnyone?", "Yes"])


def test_with_types_turns_of_one_speaker_stay_apart(gpt2_tokenizer: ConversationTokenizer) -> None:
    encoding = gpt2_tokenizer(Conversation(["Hi", "Hello", "Yes"], ["Ann", "Ann", "Bob"]))
    assert encoding["input_ids"] == [50256, 17250, 50256, 15496, 50256, 5297, 50256]
    assert encoding["token_type_ids"] == [0, 0, 0, 0, 1, 1, 0]


# --- too long ---


def test_oldest_turns_leave_and_the_others_keep_their_types(gpt2_tokenizer: ConversationTokenizer) -> None:
    context = Conversation(["Hello", "Hi", "Yes"], ["Ann", "Bob", "Cem"])
    prompt = gpt2_tokenizer.prompt(context, budget=6)
    assert prompt.input_ids == [50256, 17250, 50256, 5297, 50256]
    assert prompt.types == [1, 1, 2, 2, 1]
    assert (prompt.left_out, prompt.cut) == (1, 0)


def test_a_system_message_stays(gpt2_tokenizer: ConversationTokenizer) -> None:
    messages = [{"role": "system", "content": "Hello"}, *Conversation(["Hi", "Yes", "Hi"]).to_messages()]
    prompt = gpt2_tokenizer.prompt(messages, budget=6)
    assert prompt.input_ids == [50256, 15496, 50256, 17250, 50256]
    assert prompt.types == [0, 0, 1, 1, 2]
    assert prompt.left_out == 2


def test_a_newest_turn_that_is_too_long_is_an_error_unless_it_may_be_cut(
    gpt2_tokenizer: ConversationTokenizer,
) -> None:
    context = ["Hi", "How are you"]
    with pytest.raises(ContextTooLongError, match="has 3 tokens, 1 more than fit in a prompt of 4"):
        gpt2_tokenizer.prompt(context, budget=4)
    prompt = gpt2_tokenizer.prompt(context, budget=4, cut_long_turn=True)
    assert (prompt.input_ids, prompt.types, prompt.cut) == ([50256, 389, 345, 50256], [1, 1, 1, 0], 1)


# --- windows ---


def test_the_last_separator_is_a_target_though_it_is_the_pad_and_end_token(
    gpt2_tokenizer: ConversationTokenizer,
) -> None:
    assert gpt2_tokenizer.pad_token_id == gpt2_tokenizer.sep_token_id == gpt2_tokenizer.hf_tokenizer.eos_token_id
    [window] = gpt2_tokenizer.windows(["Hello", "Hi"], max_length=20)
    assert window.labels == [IGNORED, 15496, 50256, 17250, 50256]


@pytest.mark.parametrize("loss_on", [5, "", []])
def test_loss_on_that_makes_no_sense_is_refused(loss_on: Any, gpt2_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match="loss_on is"):
        gpt2_tokenizer.windows(["Hello", "Hi"], max_length=20, loss_on=loss_on)


def test_a_speaker_whom_nobody_knows_supervises_nothing(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert gpt2_tokenizer.windows(["Hello", "Hi"], max_length=20, loss_on="Zed") == []


def test_text_bytes_count_supervised_text_in_utf8(gpt2_tokenizer: ConversationTokenizer) -> None:
    [window] = gpt2_tokenizer.windows(["Hello", "私も🙂"], max_length=20)
    assert window.text_bytes == 5 + 3 + 3 + 4
    [window] = gpt2_tokenizer.windows(["Hello", "私も🙂"], max_length=20, loss_on="responses")
    assert window.text_bytes == 3 + 3 + 4


@pytest.mark.parametrize(("max_length", "expected"), [(6, 6), (4, 3), (3, 0)])
def test_text_bytes_of_a_cut_turn_count_whole_characters(
    max_length: int, expected: int, gpt2_tokenizer: ConversationTokenizer
) -> None:
    # 私 is 3 of the 6 tokens, も is one, 🙂 two.
    [window] = gpt2_tokenizer.windows(["私も🙂"], max_length=max_length)
    assert window.text_bytes == expected


WORDS = ["Hello", "How are you", "元気です", "🍕🍕", "a\nb", "<|endoftext|>", "one two three four five six"]


@given(
    turns=st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(["Ann", "Bob"])), min_size=1, max_size=12),
    max_length=st.integers(12, 60),
    loss_on=st.sampled_from(["all", "responses", "last", "Ann", ("Ann", "Bob"), "Zed"]),
)
def test_windows_supervise_each_chosen_turn_once(
    family: ConversationTokenizer, turns: list[tuple[str, str]], max_length: int, loss_on: Any
) -> None:
    conversation = Conversation([text for text, _ in turns], [speaker for _, speaker in turns])
    if not family.layout.use_token_types:
        conversation = conversation.joined()
    who = conversation.turn_speakers
    second = [name for name in conversation.speaker_names if name != who[0]]
    chosen = {"all": who, "responses": second, "Ann": ["Ann"], "Zed": []}.get(str(loss_on), ["Ann", "Bob"])
    targets = [family.encode(text) for text, name in zip(conversation.turns, who, strict=True) if name in chosen]
    if loss_on == "last":
        targets = targets[-1:]

    windows = family.windows(conversation, max_length=max_length, loss_on=loss_on)

    room = max_length - len(family.layout.control_ids)
    expected = [i for ids in targets for i in ([*ids, family.sep_token_id] if len(ids) < room else ids[:room])]
    assert [label for window in windows for label in window.labels if label != IGNORED] == expected
    assert all(len(window.input_ids) <= max_length and window.labels[0] == IGNORED for window in windows)


def test_a_prompt_is_the_window_before_its_response(family: ConversationTokenizer) -> None:
    # Training and generation see one layout: the ids, the types and what comes next.
    context, response = CONTEXT[:2], "はい"
    prompt = family.prompt(context)
    [window] = family.windows([*context, response], max_length=256, loss_on="last")
    start = len(prompt.input_ids)
    assert (window.input_ids[:start], window.types[:start]) == (prompt.input_ids, prompt.types)
    assert window.labels == [IGNORED] * start + [*family.encode(response), family.sep_token_id]
    assert set(window.types[start:-1]) == {prompt.types[-1]}


# --- the saved form ---


@pytest.mark.slow
def test_ids_and_types_survive_two_rounds(family: ConversationTokenizer, rounds: list[Path]) -> None:
    for folder in rounds:
        loaded = ConversationTokenizer.from_pretrained(folder)
        assert loaded(CONTEXT) == family(CONTEXT)
        assert loaded.layout == family.layout
        assert len(loaded) == len(family)
        assert (loaded.pad_token_id, loaded.stop_token_ids) == (family.pad_token_id, family.stop_token_ids)
        assert not loaded.separator_added


@pytest.mark.slow
def test_plain_transformers_gives_the_same_ids_after_two_rounds(
    family: ConversationTokenizer, rounds: list[Path]
) -> None:
    for folder in rounds:
        plain = AutoTokenizer.from_pretrained(folder)
        ids = plain.apply_chat_template(MESSAGES, tokenize=True, return_dict=False)
        assert list(ids) == family(MESSAGES)["input_ids"]
        assert (plain.sep_token_id, len(plain)) == (family.sep_token_id, len(family))


def test_nothing_saved_can_be_executed(rounds: list[Path]) -> None:
    names = {path.name for path in rounds[-1].iterdir()}
    assert {FILE_NAME, "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {Path(name).suffix for name in names} <= {".json", ".jinja", ".txt"}


def test_a_t5_class_tokenizer_survives_two_rounds(tmp_path: Path) -> None:
    # The class of the Japanese GPT-2s, which takes entry 2 for the unknown token whatever it is.
    pieces = [piece for piece in tokenizers_zoo.unigram_pieces() if not piece[0].startswith("<0x")]
    hf_tokenizer = T5Tokenizer(pieces, extra_ids=0, sep_token="[SEP]", pad_token="[PAD]", bos_token="<s>")
    tokenizer = ConversationTokenizer(hf_tokenizer)
    before = tokenizer(CONTEXT)
    assert hf_tokenizer.eos_token_id not in before["input_ids"]
    for number in range(2):
        tokenizer.save_pretrained(tmp_path / str(number))
        tokenizer = ConversationTokenizer.from_pretrained(tmp_path / str(number))
        assert tokenizer(CONTEXT) == before


def test_token_types_follow_the_architecture_where_no_layout_was_saved(zoo: Path, zoo_folders: dict[str, Path]) -> None:
    types = ConversationTokenizer.from_pretrained(zoo).layout.use_token_types
    assert types is (zoo in (zoo_folders["gpt2"], zoo_folders["unigram"]))


def test_token_types_can_be_chosen_where_no_layout_was_saved(unigram_folder: Path) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(unigram_folder, use_token_types=False)
    assert "token_type_ids" not in tokenizer(["Hello"])


def test_token_types_cannot_be_chosen_against_a_saved_layout(saved: Path) -> None:
    assert not ConversationTokenizer.from_pretrained(saved, use_token_types=False).layout.use_token_types
    with pytest.raises(ModelLoadError, match="was trained with use_token_types=False"):
        ConversationTokenizer.from_pretrained(saved, use_token_types=True)


def test_a_separator_that_the_tokenizer_does_not_have_is_refused(saved: Path) -> None:
    change(saved / FILE_NAME, separator_id=402)
    with pytest.raises(ModelLoadError, match="separator 402, but the tokenizer in the same folder has 403"):
        ConversationTokenizer.from_pretrained(saved)


def test_a_tokenizer_that_lost_its_separator_is_refused(saved: Path, bytelevel_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (saved / name).write_bytes((bytelevel_folder / name).read_bytes())
    with pytest.raises(ModelLoadError, match="separator 403, but the tokenizer in the same folder has None"):
        ConversationTokenizer.from_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"new_rule": True}, "does not know: new_rule"),
        ({"use_token_types": "perhaps"}, "use_token_types is 'perhaps'"),
    ],
)
def test_a_layout_that_cannot_be_honoured_is_refused(changes: dict[str, Any], message: str, saved: Path) -> None:
    change(saved / FILE_NAME, **changes)
    with pytest.raises(ModelLoadError, match=message):
        ConversationTokenizer.from_pretrained(saved)


def test_a_corrupted_layout_is_refused(saved: Path) -> None:
    (saved / FILE_NAME).write_text('{"format": 1,', encoding="utf-8")
    with pytest.raises(ModelLoadError, match=f"{FILE_NAME} cannot be read"):
        ConversationTokenizer.from_pretrained(saved)


def test_a_place_that_cannot_be_written_is_named(bytelevel_tokenizer: ConversationTokenizer, tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.write_text("already here", encoding="utf-8")
    with pytest.raises(SaveError, match="a file cannot be written"):
        bytelevel_tokenizer.save_pretrained(place)
    assert place.read_text(encoding="utf-8") == "already here"


def test_a_changed_layout_leaves_the_original_alone(bytelevel_tokenizer: ConversationTokenizer) -> None:
    changed = bytelevel_tokenizer.with_layout(max_length=64, loss_on="responses")
    assert (changed.layout.max_length, changed.layout.loss_on) == (64, "responses")
    assert bytelevel_tokenizer.layout.max_length is None
    assert changed(["Hi"]) == bytelevel_tokenizer(["Hi"])


def test_stop_ids_are_the_separator_and_the_end_of_text(family: ConversationTokenizer) -> None:
    expected = list(dict.fromkeys([family.sep_token_id, family.hf_tokenizer.eos_token_id]))
    assert family.stop_token_ids == expected


def test_windows_have_the_weights_of_their_turns(gpt2_tokenizer: ConversationTokenizer) -> None:
    talk = Conversation(["Hello", "How are you", "Good"], weights=[0, 0.5, 2])
    [window] = gpt2_tokenizer.windows(talk, max_length=64)
    assert window.labels == [-100, -100, -100, 2437, 389, 345, 50256, 10248, 50256]
    assert window.weights == [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 2, 2]


def test_without_types_only_turns_of_one_weight_are_joined(bytelevel_tokenizer: ConversationTokenizer) -> None:
    talk = Conversation(["Hi", "Well", "So"], ["Ann", "Bob", "Bob"], weights=[1, 0, 1])
    with pytest.raises(ConversationError, match=r"turns 2 to 3, .* weights differ \(0, 1\): give"):
        bytelevel_tokenizer.windows(talk, max_length=64)
    plain = Conversation(talk.turns, talk.speakers)
    assert bytelevel_tokenizer(talk) == bytelevel_tokenizer(plain)  # a prompt trains nothing
