"""Misspelt names of options.

Owns: which name is suggested for one that does not exist.
"""

import difflib
from collections.abc import Iterable, Sequence

_ALIKE = 0.6
"""The smallest ratio of `difflib` at which one name suggests another."""


def did_you_mean(unknown: Iterable[str], names: Iterable[str]) -> str:
    """Returns a question that suggests names for unknown ones, to end a message with; empty if none is alike.

    A name is alike if it has nearly the same letters, is a part of the other, or is abbreviated by it.

    Example:
        >>> did_you_mean(["max_tokens", "lr"], ["max_new_tokens", "learning_rate", "lora", "seed"])
        '; did you mean max_new_tokens, learning_rate?'
        >>> did_you_mean(["num_train_epochs"], ["epochs", "seed"]), did_you_mean(["colour"], ["epochs", "seed"])
        ('; did you mean epochs?', '')
    """
    known = sorted(names)
    meant = [name for name in (_closest(name, known) for name in unknown) if name]
    return f"; did you mean {', '.join(dict.fromkeys(meant))}?" if meant else ""


def _closest(name: str, known: Sequence[str]) -> str | None:
    abbreviated = [other for other in known if "".join(part[:1] for part in other.split("_")) == name]
    letters = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
    parts = sorted((other for other in known if other in name), key=len, reverse=True)
    wholes = sorted((other for other in known if len(name) > 3 and name in other), key=len)
    return next(iter([*abbreviated, *letters, *parts, *wholes]), None)
