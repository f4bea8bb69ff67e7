"""The files of a fleet on a real nats-server: gateways with a folder each have the same images, results and keys."""

import asyncio
import os
import shutil
import time
import uuid

import nats
import pytest
from support.gateway_process import SUBMIT, SUBMIT_DEMO, Gateway
from support.nats_server import admin, edit_stream, shared_server
from support.request_images import data_uri, encoded, picture
from support.stores import fleet_url
from wan_flf2v.benchmarks._stand_in import StandIn
from wan_flf2v.gateway.fetch import Fetcher
from wan_flf2v.gateway.images import Images
from wan_flf2v.gateway.jobs import jetstream_blobs, results
from wan_flf2v.gateway.jobs.jetstream_store import JetStreamStore
from wan_flf2v.gateway.jobs.records import StoredFile, Submission
from wan_flf2v.gateway.jobs.results import Results
from wan_flf2v.gateway.jobs.store import StoreFileError, StoreFullError
from wan_flf2v.gateway.settings import NatsAccess, Settings

PART = jetstream_blobs._PART_BYTES
NAME = "inputs/a.png"


def stream_of(folder):
    return "WFB_" + fleet_url(folder).rpartition("/")[2]


def run(test):
    asyncio.run(asyncio.wait_for(test, 60))


@pytest.fixture
def fleet(tmp_path):
    """Two stores of one fleet, and a data folder for each."""
    stores = [JetStreamStore(NatsAccess(fleet_url(tmp_path))) for _ in range(2)]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    yield *stores, *folders
    for store in stores:
        asyncio.run(store.close())


def write(folder, content, name=NAME):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def parts(store):
    """Return how many parts of files there are."""
    return await store.blobs._stream.run(lambda: store.blobs._stream.subjects(store.blobs._subject("part", ">")))


async def upload(store, name):
    """Return which upload a file's parts are of."""
    return (await store.blobs._stream.run(lambda: store.blobs._find(name)))["upload"]


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 50 << 20])
def test_a_file_is_the_same_at_every_gateway(fleet, size):
    store, other, here, there = fleet
    content = os.urandom(size)
    write(here, content)

    async def test():
        assert not await other.blobs.find(there, NAME)
        assert await store.blobs.put(here, NAME) is not None
        assert await store.blobs.put(here, NAME) is None
        assert all(await asyncio.gather(*(other.blobs.find(there, NAME) for _ in range(3))))
        assert (there / NAME).read_bytes() == content
        assert [path.name for path in (there / "inputs").iterdir()] == ["a.png"]
        assert await parts(store) == -(-size // PART)
        assert await other.blobs.listed("inputs") == {NAME: size}
        assert await other.blobs.listed("results") == {}
        before = time.time()
        assert await other.blobs.put(there, NAME) is None
        await store.blobs.remove(NAME, before)
        assert await other.blobs.has(NAME), "it was needed later"
        await store.blobs.remove(NAME, time.time())
        assert (await other.blobs.has(NAME), await parts(store)) == (False, 0)

    run(test())


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_damaged_file_never_appears_and_can_be_put_again(fleet, caplog, harm):
    store, other, here, there = fleet
    content = os.urandom(3 * PART)
    write(here, content)

    async def test():
        assert await store.blobs.put(here, NAME)
        subject = store.blobs._part(await upload(store, NAME), 1)
        if harm == "changed":
            client = await nats.connect(shared_server())
            await client.jetstream().publish(subject, bytes(PART))
            await client.close()
        else:
            await store.blobs._stream.run(lambda: store.blobs._stream.clear(subject))
        assert not await other.blobs.find(there, NAME)
        assert list((there / "inputs").iterdir()) == []
        assert f"damaged or not whole, it is removed name={NAME}" in caplog.text
        assert not await other.blobs.has(NAME)
        await store.blobs.put(here, NAME)
        assert await other.blobs.find(there, NAME) and (there / NAME).read_bytes() == content
        subject = store.blobs._part(await upload(store, NAME), 0)
        await store.blobs._stream.run(lambda: store.blobs._stream.clear(subject))
        (there / NAME).unlink()
        await store.blobs.put(here, NAME)
        assert await other.blobs.find(there, NAME), "it was not whole, so that all of it was put again"

    run(test())


def test_a_result_of_an_attempt_that_was_given_up_is_not_shown(fleet):
    """A gateway died when it had copied one, and has it still; meanwhile another attempt came to its end."""
    store, other, here, there = fleet
    write(there, b"of the first attempt")
    write(here, b"of the second attempt")

    async def test():
        assert await other.blobs.find(there, NAME)
        await store.blobs.put(here, NAME)
        assert await other.blobs.find(there, NAME)
        assert (there / NAME).read_bytes() == b"of the second attempt"
        (there / NAME).unlink()
        assert await other.blobs.find(there, NAME) and (there / NAME).exists()

    run(test())


def test_the_parts_of_an_upload_that_was_cut_off_go_by_themselves(fleet, monkeypatch):
    monkeypatch.setattr(jetstream_blobs, "_KEPT_S", 1)
    store, _, here, _ = fleet
    path = write(here, bytes(3 * PART))

    async def test():  # as kill -9 leaves it: nothing is tidied up, and no record is written
        await store.blobs._stream.run(lambda: store.blobs._send(path, uuid.uuid4().hex))
        assert await parts(store) == 3
        while await parts(store):
            await asyncio.sleep(0.1)
        assert not await store.blobs.has(NAME)

    run(test())


def test_an_upload_that_fails_leaves_nothing(fleet, monkeypatch):
    store, _, here, _ = fleet
    write(here, bytes(9 * PART))
    put, count = store.blobs._stream.put, 0

    async def fail(*args, **options):
        nonlocal count
        count += 1
        if count > 6:
            raise StoreFullError("full")
        await put(*args, **options)

    monkeypatch.setattr(store.blobs._stream, "put", fail)

    async def test():
        with pytest.raises(StoreFullError):
            await store.blobs.put(here, NAME)
        assert (await store.blobs.has(NAME), await parts(store)) == (False, 0)

    run(test())


def test_what_is_needed_stays_and_the_rest_goes(fleet, monkeypatch):
    """What the fleet lost, or would soon lose, is put again from a folder that has it."""
    store, other, here, there = fleet
    for name in ("needed", "unneeded", "new", "only here"):
        write(here, b"content of " + name.encode(), f"inputs/{name}")

    async def test():
        for name in ("needed", "unneeded"):
            await store.blobs.put(here, f"inputs/{name}")
        then = time.time()
        await store.blobs.put(here, "inputs/new")
        wanted = {"inputs/needed", "inputs/only here"}.__contains__
        await store.blobs.tidy(here, "inputs", wanted, then)
        assert set(await other.blobs.listed("inputs")) == {"inputs/needed", "inputs/only here", "inputs/new"}
        uploads = [await upload(store, "inputs/needed")]
        monkeypatch.setattr(jetstream_blobs, "_KEPT_S", 40 * 86400)
        await other.blobs.tidy(there, "inputs", wanted, then)
        uploads.append(await upload(store, "inputs/needed"))
        assert uploads[0] != uploads[1], "its time was half over"
        assert await parts(store) == 3
        await asyncio.to_thread(admin, f"STREAM.DELETE.{stream_of(there.parent)}")
        await JetStreamStore(NatsAccess(fleet_url(there.parent))).close()  # as a gateway that starts makes it
        await store.blobs.tidy(here, "inputs", wanted, then)
        assert set(await other.blobs.listed("inputs")) == {"inputs/needed", "inputs/only here"}

    run(test())


def test_gateways_that_start_at_once_sign_with_the_same_keys(fleet):
    store, other, here, there = fleet

    async def test():
        found = await asyncio.gather(
            *(
                asyncio.to_thread(each.secret, folder / "signing.key", os.urandom(32))
                for each, folder in ((store, here), (other, there))
            )
        )
        assert found[0] == found[1] == (here / "signing.key").read_bytes() == (there / "signing.key").read_bytes()

    run(test())


def test_a_folder_that_was_shared_keeps_its_keys(fleet):
    store, other, here, there = fleet
    (here / "signing.key").write_bytes(b"k" * 32)
    (there / "signing.key").write_bytes(b"l" * 32)
    assert store.secret(here / "signing.key", b"new") == b"k" * 32
    assert other.secret(there / "signing.key", b"new") == b"k" * 32 == (there / "signing.key").read_bytes()
    assert (there / "signing.key").stat().st_mode & 0o777 == 0o600
    assert store.secret(here / "webhook.secret", b"another") == b"another"


def test_a_stream_that_is_not_as_it_must_be_is_refused(fleet, tmp_path):
    edit_stream(stream_of(tmp_path), max_age=10**12)
    with pytest.raises(StoreFileError, match=rf"The stream {stream_of(tmp_path)} at .* max_age is 1000000000000"):
        JetStreamStore(NatsAccess(fleet_url(tmp_path)))


def test_purge_removes_what_expired_from_the_fleet(fleet, monkeypatch):
    """At the gateway that purges first, whichever made it."""
    monkeypatch.setattr(results, "_CLOCKS_S", 0)
    store, other, here, there = fleet
    mine, theirs = Results(Settings(data=here), store), Results(Settings(data=there, results_max_bytes=500), other)

    async def ended(size):
        job_id = str(uuid.uuid4())
        await store.submit(Submission(job_id, "anna", "model", {}, {}))
        await store.assign(job_id)
        write(here, bytes(size), f"results/{job_id}/video.mp4")
        await store.blobs.put(here, f"results/{job_id}/video.mp4")
        await store.end(job_id, "succeeded", output={"video": "video.mp4"})
        return await store.get(job_id)

    async def test():
        old, new = await ended(300), await ended(301)
        shutil.rmtree(here / "results" / new.id)
        assert [await mine.lost(job) for job in (old, new)] == [False, False]
        await theirs.purge()
        assert list(await store.blobs.listed("results")) == [f"results/{new.id}/video.mp4"]
        assert not await theirs.lost(new)
        await mine.purge()
        assert not (here / "results" / old.id).exists()
        await store.expire([new.id])
        await mine.purge()
        assert await store.blobs.listed("results") == {}
        assert await mine.lost(new) and await parts(store) == 0

    run(test())


@pytest.fixture
def intakes(fleet, decoders):
    """The ``Images`` of two gateways."""
    return [
        Images(settings := Settings(data=folder), store, Fetcher(settings), decoders)
        for store, folder in zip(fleet[:2], fleet[2:], strict=True)
    ]


def test_an_image_is_shared_before_it_is_accepted_and_gone_if_it_is_refused(fleet, intakes):
    store, (mine, theirs), uri = fleet[0], intakes, data_uri(encoded(picture(), "PNG"))

    async def take(images, *, refused):
        async with images.intake("anna") as intake:
            image = await images.resolve(images.unpack(uri, intake), intake)
            await images.share([image])
            assert await store.blobs.has(f"inputs/{image.name}")
            if refused:
                raise KeyError
            record = StoredFile("file_" + "0a" * 16, "anna", "a.png", image.name, "image/png", 1, time.time())
            await store.add_file(record, 1 << 30)
        return image

    async def test():
        with pytest.raises(KeyError):
            await take(mine, refused=True)
        assert await store.blobs.listed("inputs") == {}
        image = await take(mine, refused=False)
        with pytest.raises(KeyError):
            await take(theirs, refused=True)
        assert await store.blobs.has(f"inputs/{image.name}"), "another needs it"
        theirs.path(image.name).unlink()
        async with theirs.intake("anna") as intake:
            assert (await theirs.resolve("file_" + "0a" * 16, intake)).name == image.name
        assert theirs.path(image.name).read_bytes()

    run(test())


def test_a_preview_is_seen_at_every_gateway(fleet):
    store, other, here, there = fleet
    mine, theirs = Results(Settings(data=here), store), Results(Settings(data=there), other)
    frames = [encoded(picture(size, 8), "JPEG") for size in (8, 16)]

    async def seen(known):
        """Return the next preview: who asks has it from a later poll where the reply takes too long."""
        while (preview := await theirs.preview("id", known)) is None:
            await asyncio.sleep(0.05)
        return preview

    async def test():
        assert await theirs.preview("id", 0) is None
        await mine.keep_preview("id", frames[0])
        version, image = await seen(0)
        assert image == frames[0]
        assert await theirs.preview("id", version) is None
        await mine.keep_preview("id", frames[1])
        assert (await seen(version))[1] == frames[1]
        await mine.drop_preview("id")
        assert await theirs.preview("id", 0) is None
        assert list((here / "previews").iterdir()) == []

    run(test())


def form(content):
    """Return the body of an upload, and its headers."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def upload_image(gateway, content):
    body, headers = form(content)
    return gateway.post("/v1/files", body, headers=headers)


def test_two_gateways_with_a_folder_each_are_one_api(tmp_path):
    """Images that came in at one run from the other, whose death and whose folder's loss no result minds."""
    images = [encoded(picture(size, 64), "PNG") for size in (64, 72)]

    def use(url):
        first = Gateway(tmp_path / "first", url, "--demo", nats=fleet_url(tmp_path))
        second = first.twin()
        with first, second:  # the first one dispatches
            file_id = upload_image(second, images[0]).json["id"]
            here = first.submit(SUBMIT_DEMO, **{"68_image": file_id, "62_image": file_id})
            there = second.submit(SUBMIT_DEMO, **{"68_image": file_id, "62_image": data_uri(images[1])})
            for request_id in (here, there):
                second.wait(request_id)
            kept = [
                {path.name: path.read_bytes() for path in (each.data / "inputs").iterdir()} for each in (first, second)
            ]
            assert kept[0] == kept[1] and len(kept[0]) == 2
            link = first.result(there)["output"]["video"].removeprefix(first.url)
            ranges = [each.get(link, token=None, headers={"Range": "bytes=5-14"}) for each in (first, second)]
            assert [answer.status for answer in ranges] == [206, 206]
            assert ranges[0].content == ranges[1].content and len(ranges[0].content) == 10
            whole = first.get(link, token=None).content
            shutil.rmtree(second.data / "results")
            first.kill()
            shutil.rmtree(first.data)
            listed = second.get("/v1/requests").json["requests"]
            assert [each["request_id"] for each in listed] == [there, here]
            assert second.status(there)["status"] == "completed"
            assert second.get(link, token=None).content == whole
            assert [path.name for path in (second.data / "results" / there).iterdir()] == ["video.mp4"]

    async def test():
        async with StandIn() as host:
            await asyncio.to_thread(use, host.url)

    run(test())


def test_what_the_fleet_cannot_keep_is_not_accepted(tmp_path):
    with Gateway(tmp_path, nats=fleet_url(tmp_path)) as gateway, gateway.store() as store:
        name, image = stream_of(tmp_path), encoded(picture(64, 64), "PNG")
        edit_stream(name, max_bytes=200)
        for code in (507001, 503001):
            submit = {"68_image": data_uri(image), "62_image": data_uri(image), "6_text": "x"}
            for answer in (upload_image(gateway, image), gateway.post(SUBMIT, submit)):
                assert (answer.status, answer.code) == (code // 1000, code), answer.content
            assert code == 503001 or gateway.get("/healthz").status == 507
            assert (store.files(), store.count()) == ([], 0)
            assert list((gateway.data / "inputs").iterdir()) == []
            admin(f"STREAM.DELETE.{name}")
        assert f"refused a call for the stream {name}: maximum bytes exceeded" in gateway.log_text()
