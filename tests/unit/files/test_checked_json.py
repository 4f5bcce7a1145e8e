"""A JSON file that holds its own checksum is read as it was written, or not at all."""

import json
from pathlib import Path

import pytest

from convmodel.files.checked_json import checked_content, checked_text, read_checked

CONTENT = {"format": 1, "run": "0af9", "rate": 1e-05, "name": "Zoë", "files": {"a": {"size": 3}}}
FIELDS = {"format": int, "run": str, "rate": float, "name": str, "files": dict}


def test_the_content_survives(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(checked_text(CONTENT), encoding="utf-8")

    assert read_checked(tmp_path / "a.json", FIELDS) == CONTENT


def test_a_file_without_a_checksum_is_read_if_it_has_these_fields_and_no_others() -> None:
    earlier = json.dumps(CONTENT, indent=1).encode()

    assert checked_content(earlier, FIELDS) == CONTENT
    assert checked_content(earlier, FIELDS | {"format": str}) is None
    assert checked_content(earlier, FIELDS | {"more": int}) is None
    assert checked_content(earlier.replace(b'"run"', b'"ruN"'), FIELDS) is None


def test_every_changed_bit_or_byte_and_every_cut_is_noticed() -> None:
    good = checked_text(CONTENT).encode()
    changes = [(place, bytes([good[place] ^ 1 << bit])) for place in range(len(good)) for bit in range(8)]
    changes += [(place, byte) for place in range(len(good)) for byte in (b"", b" ", b"\n", b"0", b"\0", b"\xff")]
    changed = {good[:place] + byte + good[place + 1 :] for place, byte in changes}
    cut = {good[:length] for length in range(len(good))}

    for bad in (changed | cut | {good + b"\n", b"\xef\xbb\xbf" + good}) - {good}:
        assert checked_content(bad, FIELDS) is None, bad


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"null", b'"text"', b"{}", b'{"sha256": 3}', b"[" * 100_000])
def test_other_json_is_not_read(data: bytes) -> None:
    assert checked_content(data, FIELDS) is None


def test_a_missing_file_or_a_folder_is_not_read(tmp_path: Path) -> None:
    assert read_checked(tmp_path / "a.json", FIELDS) is None
    assert read_checked(tmp_path, FIELDS) is None
