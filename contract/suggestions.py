"""Suggests what was meant by an unknown name: what is near it in spelling, or nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

_NEAR = 0.8  # likeness from 0 to 1, as difflib has it; below, "next" would be near "text"
_COMPARED_CHARACTERS = 80


def near(given: str, names: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the keys of ``names`` with a name that is nearest to ``given``: several if equally near, none if none is.

    Case counts for nothing, nor do characters between letters and digits.
    """
    matcher = difflib.SequenceMatcher(b=_spelled(given[:_COMPARED_CHARACTERS]))
    likeness: dict[str, float] = {}
    for key, its_names in names.items():
        for name in its_names:
            matcher.set_seq1(_spelled(name))
            # The first two are quicker than ratio(), and never below it.
            if matcher.real_quick_ratio() >= _NEAR and matcher.quick_ratio() >= _NEAR:
                likeness[key] = max(likeness.get(key, 0.0), matcher.ratio())
    best = max(likeness.values(), default=0.0)
    return [key for key, found in likeness.items() if found == best >= _NEAR]


def _spelled(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.lower()))
