"""How much the nodes may keep in main memory between runs, as environment variables say."""

from __future__ import annotations

import os


def read_limit(variable: str, default_mb: int) -> int:
    """Return how many bytes may be kept: the environment variable's megabytes, ``default_mb`` if it is not set.

    Raises:
        ValueError: the variable is not a whole number of 0 or more.
    """
    text = os.environ.get(variable, str(default_mb))
    if not text.strip().isdecimal():
        raise ValueError(
            f"the environment variable {variable} is {text!r}, but must be a whole number of megabytes, 0 or more (0 "
            f"keeps nothing). Correct it, or unset it for {default_mb}."
        )
    return int(text) * 10**6
