"""The video between two images, and the cache of finished latents."""

import pytest
import torch
from wan_flf2v.video.conditioning_cache import LIMIT_VARIABLE, LatentCache, limit_bytes
from wan_flf2v.video.geometry import video_size
from wan_flf2v.video.known_video import Keyframe, KnownVideo

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
    video, whole = KnownVideo(start, end, SIZE, 9), whole_video(start, end, 9)
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
        KnownVideo(one, two, SIZE, 9), KnownVideo(two, one, SIZE, 9), KnownVideo(one, None, SIZE, 9),
        KnownVideo(None, one, SIZE, 9), KnownVideo(one, two, SIZE, 13), KnownVideo(turned, None, size, 9),
        KnownVideo(torch.cat([one, two]), None, SIZE, 9), KnownVideo(None, None, SIZE, 9),
    ]  # fmt: skip
    assert len({video.digest() for video in videos}) == len(videos)
    almost = one.clone()
    almost[0, 0, 0, 0] += 1e-6
    assert KnownVideo(almost, None, SIZE, 9).digest() != KnownVideo(one, None, SIZE, 9).digest()
    assert KnownVideo(one.clone(), None, SIZE, 9).digest() == KnownVideo(one, None, SIZE, 9).digest()


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


def key(frame, seed=7, **strengths):
    return Keyframe(frame, images(1, seed), **strengths)


def test_keyframes_stand_at_their_frames_and_nowhere_else():
    start, end = images(1), images(1, seed=1)
    video = KnownVideo(start, end, SIZE, 17, (key(4), key(8, seed=8)))
    whole = whole_video(start, end, 17)
    whole[4], whole[8] = images(1, 7)[0], images(1, 8)[0]
    for begin in range(17):
        for stop in range(begin + 1, 18):
            assert torch.equal(video.frames(begin, stop), whole[begin:stop])
            assert video.is_grey(begin, stop) == bool((whole[begin:stop] == 0.5).all())
    ends = KnownVideo(start, end, SIZE, 17)
    digests = {each.digest() for each in (video, ends, KnownVideo(start, end, SIZE, 17, (key(8), key(4, seed=8))))}
    assert len(digests) == 3


def test_a_keyframe_is_channel_3_of_its_latent_frame():
    keys = (key(4, strength=0.75, strength_low_noise=0.5), key(8))
    video = KnownVideo(images(1), None, SIZE, 17, keys)
    for low_noise, first in ((False, 0.25), (True, 0.5)):
        mask = video.mask(8, low_noise=low_noise)
        ends = KnownVideo(images(1), None, SIZE, 17).mask(8)
        assert torch.equal(mask[0, 3, 1], torch.full((2, 4), first))
        assert torch.equal(mask[0, 3, 2], torch.zeros(2, 4))
        mask[0, 3, 1:3] = 1
        assert torch.equal(mask, ends)


def test_keyframes_are_called_by_the_frame_that_was_asked_for():
    def check(asked, end):
        snapped = key(4 * round(asked / 4))._replace(asked=asked)
        KnownVideo(images(1), end, SIZE, 17, (snapped,)).check_keyframes()

    for end in (None, images(1)):
        with pytest.raises(ValueError, match="frame 18, but the video's frames are 0 to 16"):
            check(18, end)
    with pytest.raises(ValueError, match="frame 15, which becomes 16, which is in latent frame 4, and so is end_image"):
        check(15, images(1))
    check(15, None)


@pytest.mark.parametrize(
    ("start", "end", "frames", "says"),
    [
        (1, 1, [20], "frame 20, but the video's frames are 0 to 16"),
        (1, 1, [0], "frame 0, which is in latent frame 0, and so is start_image"),
        (5, 1, [4], "frame 4, which is in latent frame 1, and so is start_image"),
        (2, 1, [4], "frame 4, which is in latent frame 1, and so is start_image"),
        (1, 1, [16], "frame 16, which is in latent frame 4, and so is end_image"),
        (1, 5, [12], "frame 12, which is in latent frame 3, and so is end_image"),
        (1, 1, [8, 8], "frame 8, which is in latent frame 2, and so is another keyframe"),
    ],
)
def test_keyframes_that_the_video_cannot_have(start, end, frames, says):
    video = KnownVideo(images(start), images(end), SIZE, 17, tuple(map(key, frames)))
    with pytest.raises(ValueError, match=says):
        video.check_keyframes()


def test_keyframes_take_the_place_of_the_ends():
    KnownVideo(None, None, SIZE, 17, (key(0), key(16))).check_keyframes()
    KnownVideo(images(1), images(4), SIZE, 17, (key(4), key(12))).check_keyframes()
    ends, keys = (
        KnownVideo(images(1), images(1, 1), SIZE, 17),
        KnownVideo(None, None, SIZE, 17, (key(0, 0), key(16, 1))),
    )
    assert torch.equal(ends.whole(), keys.whole())
    assert torch.equal(ends.mask(8), keys.mask(8))
    assert (ends.begins_with, keys.begins_with) == (1, 1)


def test_a_keyframe_at_frame_0_is_all_of_the_first_latent_frame():
    video = KnownVideo(None, images(1), SIZE, 17, (key(0, strength=0.75, strength_low_noise=0.5), key(4)))
    for low_noise, first in ((False, 0.25), (True, 0.5)):
        mask = video.mask(8, low_noise=low_noise)
        assert torch.equal(mask[0, :, 0], torch.full((4, 2, 4), first))
        assert torch.equal(mask[0, :, 1], torch.tensor([1.0, 1, 1, 0])[:, None, None].expand(4, 2, 4))
    assert video.begins_with == 1
    assert KnownVideo(None, images(1), SIZE, 17, (key(4),)).begins_with == 0
    assert KnownVideo(images(5), None, SIZE, 17, (key(8),)).begins_with == 5
