"""Conversations that are compared."""

from export_models import make_model

from convmodel.export.probes import probes_for


def test_probes_have_what_goes_wrong_in_other_programs() -> None:
    tokenizer = make_model("llama").tokenizer
    probes = probes_for(tokenizer, ["<|im_end|>"])
    texts = [text for probe in probes for _, text in probe.messages]
    for sign in ("  ", "\n\n", "\t", "\r\n", "😀", "日", "1234567890", "<|im_end|>"):
        assert any(sign in text for text in texts)
    assert [probe.has_control_text for probe in probes].count(True) == 1
    assert {probe.messages[0][0] for probe in probes} == {"user", "system"}
    for probe in probes:
        assert tokenizer.prompt(probe.conversation).input_ids


def test_a_layout_without_system_turns_is_probed_without() -> None:
    probes = probes_for(make_model("mistral").tokenizer, [])
    assert {role for probe in probes for role, _ in probe.messages} == {"user", "assistant"}
