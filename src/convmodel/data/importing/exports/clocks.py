# ruff: noqa: RUF001 - words of languages whose letters look like Latin ones
"""Times of day as people write them: 12 or 24 hours, with a word for the part of the day in many languages.

Owns: those words, and the words that mean nothing beside a time. Knows no dates and no file format.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

_COLON = r"[:.\uff1a\u2236]"
CLOCK = (
    rf"(?P<hour>\d{{1,2}})(?:{_COLON}|\s?[h時时点點시]\s?)(?P<minute>\d{{1,2}})"
    rf"(?:(?:{_COLON}|\s?(?:min|[分분])\s?)(?P<second>\d{{2}}))?(?:\s?[分秒분초](?=[^\W\d_]|\W|\Z))?"
)
"""A time of day without words, as part of a regular expression."""

WORDS = r"[^\W\d_][^\d\n\[\]()<>|:\uff1a,\u060c\u3001/\t\u2013\u2014-]{0,29}?"
"""Words beside a date or time, as part of a regular expression."""

# By the first hour of the 12 that a word stands for: "noon" covers 7:00 to 18:59, so that 1:05 at noon is 13:05. Most
# are from Unicode's locale data.
_PARTS_OF_DAY = {
    0: (
        "am π.μ. ap. fm f.h. vm vorm. vormittags v.m. de. délelőtt dop. dopoledne dopoldne p.d. e_paradites претпл. "
        "претпладне пре_подне pre_podne prije_podne prijepodne priešpiet priekšp. priekšpusdienā дп до_полудня "
        "пр.об. тң таңкы ү.ө. "
        "TO ÖÖ go.öň ق.ظ. قبل_ازظهر قبل_از_ظهر ص صباحا غ.م. ب.ن چ.ب לפנה״צ בבוקר ጥዋት SA PG ก่อนเที่ยง ກ່ອນທ່ຽງ ព្រឹក "
        "နံနက် पूर्वाह्न म.पू. पूर्वाह्ण পূর্বাহ্ণ পূর্বাহ্ন পূৰ্বাহ্ন முற்பகல் පෙ.ව. 上午 午前 오전 Àárọ̀ SF N’ụtụtụ asubuhi "
        "in_the_morning de_la_mañana de_la_madrugada da_manhã da_madrugada del_matin du_matin di_mattina morgens утра "
        "पहाटे सुबह सकाळी सकाळ बिहान সকাল ভোর காலை அதிகாலை ఉదయం ಬೆಳಗ್ಗೆ രാവിലെ સવારે ਸਵੇਰੇ صبح فجرا subuh pagi "
        "sáng umaga เช้า 凌晨 清晨 早上 早晨 朝 아침 새벽 sabah rano ráno"
    ),
    7: (
        "noon mediodía del_mediodía middag mittags midi 中午 正午 昼 정오 낮 दोपहर दुपारी दुपार দুপুর மதியம்  మధ్యాహ్నం "
        "ಮಧ್ಯಾಹ್ನ ഉച്ചയ്ക്ക് બપોરે ਦੁਪਹਿਰੇ دوپہر ظهرا siang tengah_hari trưa tanghali เที่ยง mchana öğle"
    ),
    12: (
        "pm μ.μ. ip. em e.h. nm nachm. nachmittags n.m. du. délután odp. odpoledne pop. popoldne m.d. e_pasdites попл. "
        "попладне "
        "по_подне po_podne poslije_podne popodne popiet pēcp. pēcpusdienā пп "
        "после_полудня сл.об. тк түштөн_кийинки ү.х. "
        "TK ÖS go.soň ب.ظ. بعدازظهر بعد_از_ظهر م مساء غ.و. د.ن چ.ك אחה״צ ከሰዓት CH PTG หลังเที่ยง ຫຼັງທ່ຽງ ល្ងាច "
        "ညနေ अपराह्न म.उ. अपराह्ण অপরাহ্ণ অপরাহ্ন অপৰাহ্ন பிற்பகல் ප.ව. 下午 午後 오후 Ọ̀sán YM N’abalị alasiri "
        "in_the_afternoon in_the_evening de_la_tarde da_tarde de_l’après-midi del_pomeriggio du_soir дня вечера "
        "शाम संध्याकाळी বিকাল বিকেল সন্ধ্যা மாலை సాయంత్రం ಸಂಜೆ വൈകുന്നേരം સાંજે ਸ਼ਾਮ شام عصر petang sore chiều hapon "
        "บ่าย เย็น 傍晚 夕方"
    ),
    15: "晚上 夜晚 晚間 晚间 저녁 tối da_noite de_la_noche di_sera abends akşam בערב gabi ค่ำ",
    18: (
        "at_night nachts रात रात्री রাত রাত্রি இரவு రాత్రి ರಾತ್ರಿ രാത്രി રાત્રે ਰਾਤ رات شب ليلا malam đêm กลางคืน 夜 夜裡 "
        "夜里 半夜 午夜 深夜 밤 ночи gece usiku בלילה"
    ),
}
_FILLERS = "klo kello kl kell à at um uhr г ч р в о o ob u às as a_las alle ore om pada pukul lúc saat น"


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day.

    Attributes:
        time: Hour (of 24), minute and second; they may be impossible, as 25:00 is.
        halved: Whether a word names the part of the day.
        unknown: The first word beside the time that has no known meaning; empty if there is none.
    """

    time: tuple[int, int, int] = (0, 0, 0)
    halved: bool = False
    unknown: str = ""


NO_TIME = Clock()
"""The time of a day without a clock."""


def _normal(word: str) -> str:
    r"""Returns a word without case, spaces, dots and marks that fonts or phones add: `p.\xa0m.` is `pm`."""
    folded = unicodedata.normalize("NFKC", word.replace("_", "")).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter)[0] in "LMN")


_STARTS = {_normal(word): start for start, words in _PARTS_OF_DAY.items() for word in words.split()}
_MEANINGLESS = {_normal(word) for word in _FILLERS.split()}


def clock_of(match: re.Match[str], words: Iterable[str | None]) -> Clock:
    """Returns the time of day of a match of `CLOCK`, with the words beside it."""
    starts, unknown = [], ""
    for part in filter(None, words):
        known = _starts(part)
        starts += known or []
        unknown = unknown or ("" if known is not None else part.strip())
    hour = int(match["hour"])
    if starts and hour <= 12:  # some phones write 21:41 PM
        hour = (starts[0] + (hour - starts[0]) % 12) % 24
    return Clock((hour, int(match["minute"]), int(match["second"] or 0)), bool(starts), unknown)


def is_word(words: str) -> bool:
    """Returns whether words have a meaning beside a time."""
    return _starts(words) is not None


def _starts(words: str) -> list[int] | None:
    """Returns where the parts of the day begin that words name; None if a word is unknown."""
    starts = []
    for word in [words] if _normal(words) in _STARTS else words.split():
        normal = _normal(word)
        if normal in _STARTS:
            starts.append(_STARTS[normal])
        elif normal and normal not in _MEANINGLESS:
            return None
    return starts
