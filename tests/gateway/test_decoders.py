"""The processes that decode images: one that takes too long or dies is replaced, and holds up no other token."""

import asyncio
import contextlib

import pytest
from PIL import Image
from support.odd_pictures import jpeg_of_scans
from support.request_images import encoded, picture
from wan_flf2v.client.images import MAX_PIXELS, MAX_SCANS, ImageError
from wan_flf2v.gateway import decoders
from wan_flf2v.gateway.decoders import Decoders


@pytest.fixture
def own_decoders():
    with contextlib.closing(Decoders()) as own:
        yield own


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.jpg"
    path.write_bytes(encoded(picture(), "JPEG"))
    return path


@pytest.fixture
def slow(tmp_path):
    """A file that takes seconds to decode: as many scans as are allowed, and many pixels."""
    path = tmp_path / "slow.jpg"
    path.write_bytes(jpeg_of_scans(MAX_SCANS, Image.new("L", (6_000, 6_000))))
    return path


def test_a_decoder_imports_nothing_from_the_folder_that_it_starts_in(own_decoders, good, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    assert asyncio.run(own_decoders.make_plain(good, MAX_PIXELS, "anna")).suffix == ".jpg"


def test_an_image_that_takes_too_long_is_given_up_and_keeps_nobody_waiting(own_decoders, slow, good, monkeypatch):
    async def go():
        await own_decoders.make_plain(good, MAX_PIXELS, "ben")  # his process has started
        attacks = [asyncio.create_task(own_decoders.make_plain(slow, MAX_PIXELS, "anna")) for _ in range(2)]
        await asyncio.sleep(0)  # the attacks come first
        for _ in range(3):
            assert (await own_decoders.make_plain(good, MAX_PIXELS, "ben")).suffix == ".jpg"
        assert not any(task.done() for task in attacks)
        for result in await asyncio.gather(*attacks, return_exceptions=True):
            assert isinstance(result, ImageError)
            assert str(result) == "The image takes longer than 1.5 s to decode. Save it again as PNG or JPEG."
        assert (await own_decoders.make_plain(good, MAX_PIXELS, "anna")).suffix == ".jpg"

    monkeypatch.setattr(decoders, "_DEADLINE_S", 1.5)
    asyncio.run(go())


def test_a_process_that_dies_is_replaced(own_decoders, good):
    async def go():
        await own_decoders.make_plain(good, MAX_PIXELS, "anna")
        own_decoders._idle[0].kill()
        with pytest.raises(ImageError, match="its decoder ended"):
            await own_decoders.make_plain(good, MAX_PIXELS, "anna")
        assert await own_decoders.make_plain(good, MAX_PIXELS, "anna")

    asyncio.run(go())


def test_a_file_that_cannot_be_read_is_not_the_images_fault(own_decoders, tmp_path):
    with pytest.raises(FileNotFoundError):
        asyncio.run(own_decoders.make_plain(tmp_path / "gone.png", MAX_PIXELS, "anna"))
