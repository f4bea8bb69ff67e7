"""The video between two images, and the cache of finished latents."""

import pytest
import torch
from wan_flf2v.video.conditioning_cache import LIMIT_VARIABLE, LatentCache, limit_bytes
from wan_flf2v.video.ends_video import EndsVideo
from wan_flf2v.video.geometry import video_size

SIZE = video_size(32, 16)


def images(frames, seed=0):
    return torch.rand(frames, 16, 32, 3, generator=torch.Generator().manual_seed(seed)) if frames else None


def whole_video(start, end, length):
    """The video as the host's node builds it."""
    video = torch.full((length, 16, 32, 3), 0.5)
    if start is not None:
        video[: len(start)] = start
    if end is not None:
        video[-len(end) :] = end
    return video


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 0), (0, 1), (0, 0), (5, 2), (9, 9), (6, 6), (2, 9)])
def test_any_part_is_that_part_of_the_whole(first, last):
    start, end = images(first), images(last, seed=1)
    video, whole = EndsVideo(start, end, SIZE, 9), whole_video(start, end, 9)
    assert torch.equal(video.whole(), whole)
    for begin in range(9):
        for stop in range(begin + 1, 10):
            part = whole[begin:stop]
            assert torch.equal(video.frames(begin, stop), part)
            assert not video.is_grey(begin, stop) or bool((part == 0.5).all())
    assert video.is_grey(0, 9) == (first == last == 0)
    assert first + last >= 9 or video.is_grey(first, 9 - last)


def test_digest_changes_with_whatever_the_encoder_sees():
    one, two = images(1), images(1, seed=1)
    size = video_size(16, 32)
    turned = one.reshape(1, 32, 16, 3)
    videos = [
        EndsVideo(one, two, SIZE, 9), EndsVideo(two, one, SIZE, 9), EndsVideo(one, None, SIZE, 9),
        EndsVideo(None, one, SIZE, 9), EndsVideo(one, two, SIZE, 13), EndsVideo(turned, None, size, 9),
        EndsVideo(torch.cat([one, two]), None, SIZE, 9), EndsVideo(None, None, SIZE, 9),
    ]  # fmt: skip
    assert len({video.digest() for video in videos}) == len(videos)
    almost = one.clone()
    almost[0, 0, 0, 0] += 1e-6
    assert EndsVideo(almost, None, SIZE, 9).digest() != EndsVideo(one, None, SIZE, 9).digest()
    assert EndsVideo(one.clone(), None, SIZE, 9).digest() == EndsVideo(one, None, SIZE, 9).digest()


def latent(value, megabytes=1):
    return torch.full((megabytes, 250_000), float(value))


def test_oldest_goes_first_and_the_limit_holds(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "3")
    cache = LatentCache()
    for name in "abc":
        cache.put(name, latent(ord(name)))
    assert cache.get("a") is not None  # now b is the oldest
    cache.put("d", latent(1))
    assert cache.size_bytes() == 3_000_000
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    cache.put("larger than the limit", latent(2, megabytes=4))
    assert cache.size_bytes() == 3_000_000
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    cache.put("e", latent(3))
    assert cache.size_bytes() == 1_000_000


def test_what_is_kept_belongs_to_nobody_else(monkeypatch):
    cache, mine = LatentCache(), latent(1)
    cache.put("a", mine)
    mine.zero_()
    cache.get("a").zero_()
    assert cache.get("a").mean() == 1


def test_limit(monkeypatch):
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert limit_bytes() == 256_000_000
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    assert limit_bytes() == 0
    monkeypatch.setenv(LIMIT_VARIABLE, "256 MB")
    with pytest.raises(ValueError, match="WAN_FLF2V_CACHE_MB is '256 MB', but must be a whole number of megabytes"):
        limit_bytes()
