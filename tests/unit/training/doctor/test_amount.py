"""How much there is to learn, and the measurement that is nearest."""

import re
from pathlib import Path

import pytest

from convmodel.data.windows.encoding import EncodingSummary
from convmodel.training.doctor.amount import MEASURED, Measured, check_amount


@pytest.mark.parametrize("nearest", MEASURED, ids=lambda one: str(one.messages))
@pytest.mark.parametrize("ratio", [0.7, 1, 1.4])
def test_the_nearest_measurement_is_reported(nearest: Measured, ratio: float) -> None:
    size = int(nearest.text_bytes * ratio)
    check = check_amount(EncodingSummary(text_bytes=size))
    assert (check.name, check.status, check.fix) == ("amount", "pass", "")
    assert check.finding == f"{size:,} bytes of text to learn; {nearest}"


@pytest.mark.parametrize("size", [0, 1, MEASURED[0].text_bytes // 6, MEASURED[-1].text_bytes * 6, 10**12])
def test_nothing_is_compared_that_is_too_different(size: int) -> None:
    assert check_amount(EncodingSummary(text_bytes=size)).finding == f"{size:,} bytes of text to learn"


def test_only_what_was_measured_is_reported() -> None:
    without = str(Measured(7000, 500, 0.2))
    assert without.endswith(
        "7,000 bytes by one person, from a chat of 500 messages, lowered the bits per byte of builtin:chitchat by 20%"
    )
    assert str(Measured(7000, 500, 0.2, 0.3)) == f"{without}, and of SmolLM2-135M-Instruct with LoRA by 30%"


def test_measurements_are_by_size_and_more_achieves_more() -> None:
    for shares in ([one.text_bytes for one in MEASURED], [one.small for one in MEASURED]):
        assert shares == sorted(shares)


def test_the_page_has_the_same_shares() -> None:
    rows, messages = {}, 0
    page = (Path(__file__).parents[4] / "docs/what-to-expect.md").read_text(encoding="utf-8")
    for line in re.findall(r"^\| .* %\) \|$", page, re.MULTILINE):
        size, model, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        messages = int(size.replace(",", "")) if size else messages
        rows[messages, model] = int(re.search(r"\(-(\d+) %\)", line)[1]) / 100  # type: ignore[index]
    for one in MEASURED:
        assert rows[one.messages, "`builtin:chitchat`"] == one.small
        assert rows.get((one.messages, "SmolLM2-135M-Instruct, LoRA")) == one.adapted
