"""Model options: the dictionaries through which samplers and model patches reach a model call."""

from __future__ import annotations

from typing import Any

POST_CFG = "sampler_post_cfg_function"  # the host's key of functions that are given each guided prediction


def add_changes(own: dict[str, Any], passed: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return ``own`` with what ``passed`` has beyond ``base``: dictionaries key by key, lists by what was appended.

    Samplers change the options that they were given and pass them with every model call; cfg_pp ones append a
    ``sampler_post_cfg_function``. What they were given are a copy of one expert's options, ``base``; the other expert
    needs the same changes over ``own``. No argument is changed.
    """
    merged = dict(own)
    for key, value in passed.items():
        before = base.get(key)
        if value is before:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            merged[key] = add_changes(own.get(key) or {}, value, before)
        elif isinstance(value, list):
            if appended := appended_to(before, value):
                merged[key] = [*(own.get(key) or []), *appended]
        else:
            merged[key] = value
    return merged


def appended_to(before: list[Any] | None, now: list[Any]) -> list[Any]:
    """Return what ``now`` has after the items of ``before``; all of ``now`` if it does not begin with them."""
    before = before or []
    same = len(now) >= len(before) and all(old is new for old, new in zip(before, now, strict=False))
    return now[len(before) :] if same else now
