"""Patterns of personal data in text.

Owns: the patterns, and the checks that distinguish a payment card from other numbers. Masks nothing itself.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of personal data: `url`, `email`, ..."""

    name: str
    pattern: re.Pattern[str]  # of candidates
    holds: Callable[[str], int] = len
    """Returns how many characters of a candidate are personal data; 0 if it is something else."""


def _is_card(candidate: str) -> int:
    """Checks the check digit of payment cards (Luhn, US patent 2950048)."""
    digits = [int(character) for character in reversed(candidate) if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return 0 if (sum(digits[::2]) + sum(doubled)) % 10 else len(candidate)


def _is_iban(candidate: str) -> int:
    """Returns how much is an IBAN by its check digits (ISO 13616: modulo 97 is 1); words in capitals may follow."""
    for end in range(len(candidate), 14, -1):
        if candidate[end : end + 1].isalnum():
            continue
        compact = re.sub(r"[ -]", "", candidate[:end]).upper()
        if int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1:
            return len(candidate[:end].rstrip(" -"))
    return 0


def _is_ip(candidate: str) -> int:
    """Distinguishes an IP address from a time or C++; IPv6 addresses of hosts start with four hexadecimal digits."""
    candidate = candidate[:-1] if candidate.endswith(":") and not candidate.endswith("::") else candidate
    try:
        ip_address(candidate)
    except ValueError:
        return 0
    written = "." in candidate or (len(candidate.split(":")[0]) == 4 and any(map(str.isdigit, candidate)))
    return len(candidate) if written else 0


def _is_phone(candidate: str) -> int:
    return 0 if _NUMBERS.fullmatch(candidate) else len(candidate)


_LETTER = "A-Za-z\u00c0-\u024f\u0370-\u04ff"  # Latin, Greek, Cyrillic; others may touch an address without a space
_NO_URL = '\\s<>"`{}|\\\\^\u2010-\u206f\u2e80-\u9fff\uac00-\ud7a3\uff00-\uffef'

# Dates, and numbers with their thousands set apart. They are matched before phones to be passed over.
_NUMBERS = re.compile(
    r"(?:\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d{2})|\d{4}([./-])\d{1,2}\2\d{1,2})(?![./-]?\d)"
    r"|[1-9]\d{0,2}(?:[.,']\d{3})+(?![.,']?\d)"
    r"|\+[1-9]\d{0,2}(?:[.,']\d{3}){1,2}(?![.,']?\d)"
    r"|\+?[1-9]\d?(?:[ \u00a0]\d{3}){2}(?![ \u00a0]?\d)"
)
_PHONE = re.compile(
    rf"(?<![A-Za-z0-9_])(?<!\d[.,:/-])(?:{_NUMBERS.pattern}"
    r"|(?:\+[ ]?|00)[1-9](?:[ \u00a0./()-]{0,3}\d){7,14}"  # +49 170 1234567, +1 (555) 010-9999
    r"|0[1-9](?:[ \u00a0./-]?\d){7,10}"  # 090-1234-5678, 0170/1234567, 01 23 45 67 89
    r"|\((?:0\d{1,5}|[2-9]\d\d|\d\d(?=\)[ ]?9\d{4}))\)(?:[ \u00a0./-]?\d){6,9}"  # (555) 010-9999, (030) 123456
    r"|(?:1[ .-])?[2-9]\d\d([ .-])\d{3}\3\d{4}"  # 555-010-9999
    r"|1[3-9]\d([ -]?)\d{4}\4\d{4}"  # 138 0013 8000
    r")(?!\d)"
)

_URL = (
    rf"(?<![{_LETTER}\d])(?:[a-z][a-z\d+.-]{{1,20}}://|www\.)[^{_NO_URL}]+(?<![.,:;!?'*)\]])"
    rf"|(?<![{_LETTER}\d@._/-])(?:[{_LETTER}\d-]+\.)+[{_LETTER}]{{2,}}/[^{_NO_URL}]+(?<![.,:;!?'*)\]])"
)
_EMAIL = rf"(?<![{_LETTER}\d._%+'-])[{_LETTER}\d._%+'-]+@(?:[{_LETTER}\d-]+\.)+[{_LETTER}]{{2,}}"
_IBAN = r"(?<![A-Z\d])[A-Z]{2}\d\d(?:[ -]?[A-Z\d]{4}){2,7}(?:[ -]?[A-Z\d]{1,3})?(?![A-Z\d])"
_CARD = (
    r"(?<![\d.,])(?:[2-6]\d{12,18}"
    r"|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|3\d{3}([ -])\d{6}\2\d{4,5})(?![.,]?\d)"
)
_IP = (
    r"(?<![A-Za-z\d_.])(?<!version )(?<!Version )(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)"
    r"|(?<![A-Za-z\d:])[A-Fa-f\d]{1,4}(?::[A-Fa-f\d]{0,4}){2,7}(?![A-Za-z\d:])"
)

RULES = (
    Rule("url", re.compile(_URL, re.IGNORECASE)),
    Rule("email", re.compile(_EMAIL)),
    Rule("iban", re.compile(_IBAN, re.IGNORECASE | re.ASCII), _is_iban),
    Rule("card", re.compile(_CARD, re.ASCII), _is_card),
    Rule("ip", re.compile(_IP, re.ASCII), _is_ip),
    Rule("phone", _PHONE, _is_phone),
)
"""All rules, in the order of masking: later rules do not match text that an earlier rule has masked."""
