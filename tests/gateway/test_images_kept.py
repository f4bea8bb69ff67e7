"""Uploaded images, and how long images are kept."""

import asyncio
import os
import time

import pytest
from support.request_images import data_uri, encoded, picture, resolve
from wan_flf2v.client.images import ImageError
from wan_flf2v.gateway.jobs.records import StoredFile, Submission


def uploaded(images, store, token, file_id="file_" + "0a" * 16, age_s=0.0):
    image = resolve(images, data_uri(encoded(picture(), "PNG")))
    record = StoredFile(file_id, token, "a.png", image.name, "image/png", image.size, time.time() - age_s)
    asyncio.run(store.add_file(record, 1 << 30))
    return image, file_id


def test_an_uploaded_file_serves_its_owner_only(make, store):
    images = make()
    image, file_id = uploaded(images, store, "anna")
    assert resolve(images, file_id, "anna") == image
    for token, text in (("ben", file_id), ("anna", "file_" + "0b" * 16)):
        with pytest.raises(ImageError, match=f'There is no file "{text}"'):
            resolve(images, text, token)


def test_an_uploaded_file_whose_content_is_gone(make, store):
    images = make()
    image, file_id = uploaded(images, store, "anna")
    images.path(image.name).unlink()
    with pytest.raises(ImageError, match="Upload it again"):
        resolve(images, file_id, "anna")


def test_purge_deletes_what_nothing_needs(make, store, tmp_path):
    images = make(result_ttl_s=86400.0)
    kept = {size: resolve(images, data_uri(encoded(picture(size, 8), "PNG"))).name for size in (8, 16, 24)}
    image, file_id = uploaded(images, store, "anna", age_s=80_000.0)
    request_id = "7b1c7c1e-0000-4000-8000-000000000000"
    asyncio.run(store.submit(Submission(request_id, "anna", "model", {}, {"62_image": kept[8]})))
    asyncio.run(images.purge())
    names = {path.name for path in (tmp_path / "inputs").iterdir()}
    assert names == {*kept.values(), image.name}, "new ones may belong to a request that is just being accepted"
    (tmp_path / "inputs" / ".left.part").write_bytes(b"of a crash")
    for path in (tmp_path / "inputs").iterdir():
        if path.name != kept[24]:
            os.utime(path, (0, 0))
    asyncio.run(images.purge())
    assert {path.name for path in (tmp_path / "inputs").iterdir()} == {kept[8], kept[24], image.name}

    asyncio.run(make(result_ttl_s=60.0).purge())
    assert asyncio.run(store.get_file(file_id)) is None, "the upload is older than that"
    assert not images.path(image.name).exists()


def test_taking_an_image_up_again_keeps_it_from_purge(make):
    images, uri = make(), data_uri(encoded(picture(), "PNG"))
    path = images.path(resolve(images, uri).name)
    os.utime(path, (0, 0))
    resolve(images, uri)
    asyncio.run(images.purge())
    assert path.exists()
