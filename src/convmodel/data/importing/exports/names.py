"""Names of speakers, and sentences that look like one because a colon follows.

Owns: how the two differ by their words alone. Knows no file format.
"""

import re

_QUOTED = re.compile(r"""["“„«「『][^"“”„«»「」『』]*["“”»」』]""")
_END_OF_SENTENCE = re.compile(r"\w{4}[.!?]\s|[\u3002\uff01\uff1f]")


def is_like_a_sentence(name: str) -> bool:
    """Distinguishes `Two things were odd` and `but remember` from `Ann Lee`, and from a nickname such as `ann`."""
    words = name.split()
    return len(words) > 1 and (words[0][0].islower() or words[-1][0].islower())


def is_cut_off(name: str) -> bool:
    """Returns whether words break off in a quotation, or hold a whole sentence, so that the colon is inside a text."""
    return bool(re.search('["“”„«»「」『』]', _QUOTED.sub("", name)) or _END_OF_SENTENCE.search(name))
