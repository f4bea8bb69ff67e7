"""Results: copied from ComfyUI, frame 0 cut out, given under signed addresses, and purged."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import uuid
from urllib.parse import parse_qs, urlsplit

import av
import numpy as np
import pytest
from PIL import Image
from support.gateway_process import Gateway
from support.stores import Blocking, chosen_store, sql, sqlite_only
from wan_flf2v.client.comfy import ComfyClient, OutputFile
from wan_flf2v.client.errors import ServerResponseError
from wan_flf2v.gateway.durable import write_durably
from wan_flf2v.gateway.jobs.records import Submission
from wan_flf2v.gateway.jobs.results import ExpiredLinkError, InvalidLinkError, ResultError, Results, StorageError
from wan_flf2v.gateway.jobs.sqlite_store import SqliteStore
from wan_flf2v.gateway.jobs.tokens import create_token, find_token, first_token
from wan_flf2v.gateway.settings import Settings

BASE = "https://api.test/sub"


@pytest.fixture
def store(tmp_path):
    store = Blocking(chosen_store(tmp_path))
    yield store
    store.close()


@pytest.fixture
def results(tmp_path, store):
    return Results(Settings(data=tmp_path), store.store)


def running_job(store):
    job_id = str(uuid.uuid4())
    store.submit(Submission(job_id, "anna", "model", {}, {}))
    store.assign(job_id)
    return store.get(job_id)


def finished_job(store, status="succeeded", output=None):
    job_id = running_job(store).id
    output = output or {"video": "video.mp4", "image": "frame0.png"}
    store.end(job_id, status, output=output if status == "succeeded" else None)
    return store.get(job_id)


def with_files(results, tmp_path, job, size=100):
    folder = tmp_path / "results" / job.id
    folder.mkdir(parents=True)
    (folder / "video.mp4").write_bytes(b"v" * size)
    (folder / "frame0.png").write_bytes(b"i")
    return folder


def write_video(path, colours=("red", "blue", "blue")):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour in colours:
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), colour))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def collect(results, host, filename, job):
    async def go():
        async with ComfyClient(host.url) as client:
            return await results.collect(client, OutputFile(filename, "wan_flf2v_api", "output", "73"), job)

    return asyncio.run(go())


def test_collecting_from_a_real_comfyui(tmp_path, store, results, comfy_server):
    """Its first frame is red, the others blue. Twice, as after a crash between copying and noting it."""
    folder = comfy_server.base_dir / "output" / "wan_flf2v_api"
    folder.mkdir(exist_ok=True)
    write_video(folder / "good.mp4")
    job = running_job(store)
    for _ in range(2):
        assert collect(results, comfy_server, "good.mp4", job) == {"video": "video.mp4", "image": "frame0.png"}
        own = tmp_path / "results" / job.id
        assert sorted(path.name for path in own.iterdir()) == ["frame0.png", "video.mp4"]
        assert (own / "video.mp4").read_bytes() == (folder / "good.mp4").read_bytes()
        with Image.open(own / "frame0.png") as image:
            assert (image.format, image.size) == ("PNG", (64, 48))
            assert np.abs(np.asarray(image).reshape(-1, 3) - (255, 0, 0)).max() < 12

    (folder / "broken.mp4").write_bytes((folder / "good.mp4").read_bytes()[:200])
    (folder / "text.mp4").write_bytes(b"hello")
    for name in ("broken.mp4", "text.mp4"):
        with pytest.raises(ResultError, match="cannot be read"):
            collect(results, comfy_server, name, running_job(store))
    with pytest.raises(ServerResponseError, match="no longer has it"):
        collect(results, comfy_server, "missing.mp4", running_job(store))


def test_a_late_result_replaces_nothing_of_a_later_attempt(tmp_path, store, results, comfy_server):
    """A gateway that stood still copies the first attempt's video after the second one has ended, and drops it."""
    folder = comfy_server.base_dir / "output" / "wan_flf2v_api"
    folder.mkdir(exist_ok=True)
    write_video(folder / "first.mp4", ("red",))
    write_video(folder / "second.mp4", ("blue",))
    first = running_job(store)
    store.requeue(first.id)
    store.assign(first.id)
    second = store.get(first.id)
    output = collect(results, comfy_server, "second.mp4", second)
    assert output == {"video": "video-2.mp4", "image": "frame0-2.png"}
    assert store.end(first.id, "succeeded", output=output, attempt=2)
    late = collect(results, comfy_server, "first.mp4", first)
    assert not store.end(first.id, "succeeded", output=late, attempt=1)
    asyncio.run(results.drop(first, late))
    asyncio.run(results.drop(second, output))  # the present attempt's stay, whoever asks
    urls = results.urls(store.get(first.id), BASE)
    assert verify(results, *parts(urls["video"])).read_bytes() == (folder / "second.mp4").read_bytes()
    assert sorted(path.name for path in (tmp_path / "results" / first.id).iterdir()) == ["frame0-2.png", "video-2.mp4"]


def verify(results, *parts):
    return asyncio.run(results.verify(*parts))


def purge(results):
    asyncio.run(results.purge())


def parts(url):
    """Return what a signed address hands to ``verify``."""
    address = urlsplit(url)
    query = parse_qs(address.query)
    *_, job_id, name = address.path.split("/")
    return job_id, name, query["expires"][0], query["signature"][0]


def test_the_output_is_as_the_page_says_and_its_addresses_lead_to_the_files(tmp_path, store, results):
    job = finished_job(store)
    folder = with_files(results, tmp_path, job)
    output = results.urls(job, BASE)
    assert set(output) == {"image", "video", "images", "videos"}
    assert output["images"] == [output["image"]] and output["videos"] == [output["video"]]
    assert output["video"].startswith(f"{BASE}/v1/results/{job.id}/video.mp4?")
    assert verify(results, *parts(output["video"])) == folder / "video.mp4"
    assert verify(results, *parts(output["image"])) == folder / "frame0.png"


@pytest.mark.parametrize("position", range(4))
def test_a_changed_address_is_refused(tmp_path, store, results, position):
    job, other = finished_job(store), finished_job(store)
    with_files(results, tmp_path, job), with_files(results, tmp_path, other)
    good = list(parts(results.urls(job, BASE)["video"]))
    changed = [
        [other.id, "../" + job.id, job.id.upper(), "..", "", job.id + "\0", job.id + "\n", "../../store.sqlite3"],
        ["frame0.png", "../video.mp4", "..", "", "video.mp4\0", "VIDEO.MP4", "..\\signing.key", "../../signing.key"],
        [str(int(good[2]) + 1), "99999999999", "", "-1", "1e12", "٣" * 10, " " + good[2], good[2] + "\n", "9" * 5000],
        ["", "0" * 64, good[3].upper(), good[3][:-1], good[3] + "0", "é" * 64, "\ud800", "\0", good[3] + "\n"],
    ]  # fmt: skip
    for value in changed[position]:
        bad = [*good[:position], value, *good[position + 1 :]]
        with pytest.raises(InvalidLinkError):
            verify(results, *bad)
    assert verify(results, *good)


def test_an_address_ends_with_its_time(tmp_path, store):
    results = Results(Settings(data=tmp_path, url_ttl_s=-2.0), store.store)
    job = finished_job(store)
    with_files(results, tmp_path, job)
    with pytest.raises(ExpiredLinkError):
        verify(results, *parts(results.urls(job, BASE)["video"]))


@pytest.mark.parametrize(
    ("settings", "added", "code", "message"),
    [
        ({}, "", 404001, "This result is no longer kept."),
        ({}, "0", 403001, "The link to this file is incomplete or was changed. Use the link that result gave."),
        (
            {"url_ttl_s": -2.0},
            "",
            403001,
            "The link to this file has expired. Ask for the request's result to get a new link.",
        ),
    ],
)
def test_a_client_is_told_what_is_wrong_with_an_address(tmp_path, settings, added, code, message):
    """There is no file any more behind any of them."""
    with Gateway(tmp_path, config=settings) as gateway:
        request_id = gateway.submit()
        with gateway.store() as store:
            store.assign(request_id)
            gateway.succeed(store, request_id)
        address = gateway.result(request_id)["output"]["video"].removeprefix(gateway.url)
        shutil.rmtree(gateway.data / "results" / request_id)
        answer = gateway.get(address + added, token=None)
    assert (answer.status, answer.code, answer.json["error_message"]) == (code // 1000, code, message)


@pytest.mark.parametrize("deleted", ["the folder", "the video", "the image"])
def test_a_request_whose_files_someone_deleted_is_not_found(gateway, deleted):
    """As one that has expired, with the same words on every call: not a success whose links are dead."""
    request_id = gateway.submit()
    with gateway.store() as store:
        store.assign(request_id)
        gateway.succeed(store, request_id)
    folder = gateway.data / "results" / request_id
    address = gateway.result(request_id)["output"]["video"].removeprefix(gateway.url)
    kept = shutil.copytree(folder, folder.with_name("kept"), dirs_exist_ok=True)
    if deleted == "the folder":
        shutil.rmtree(folder)
    else:
        (folder / ("video.mp4" if deleted == "the video" else "frame0.png")).unlink()
    for answer in (
        *(gateway.get(f"/v1/requests/{request_id}/{call}") for call in ("status", "result", "events")),
        gateway.cancel(request_id),
    ):
        assert (answer.status, answer.code) == (404, 404001)
    assert deleted == "the image" or gateway.get(address, token=None).status == 404
    shutil.copytree(kept, folder, dirs_exist_ok=True)  # as when a disk was away for a while
    assert gateway.result(request_id)["status"] == "succeeded"


def test_a_result_that_is_gone_is_not_found(tmp_path, store, results):
    job = finished_job(store)
    folder = with_files(results, tmp_path, job)
    video, image = results.urls(job, BASE)["video"], results.urls(job, BASE)["image"]
    (folder / "video.mp4").unlink()
    store.expire([job.id])
    for url in (video, image):
        assert verify(results, *parts(url)) is None


@sqlite_only
def test_another_installation_signs_otherwise(tmp_path, store, results):
    job = finished_job(store)
    with_files(results, tmp_path, job)
    (tmp_path / "signing.key").unlink()
    url = Results(Settings(data=tmp_path), store.store).urls(job, BASE)["video"]
    with pytest.raises(InvalidLinkError):
        verify(results, *parts(url))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_only_the_owner_can_read_the_key(tmp_path, results):
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "signing.key").read_bytes()) == 32


def test_processes_that_start_together_agree_on_the_key(tmp_path):
    """And on none that was written half."""
    code = (
        "import pathlib, secrets, sys; from wan_flf2v.gateway.durable import read_secret; print(flush=True); "
        "sys.stdin.readline(); print(read_secret(pathlib.Path(sys.argv[1]), secrets.token_bytes(32)).hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "signing.key")]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(8)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate()[0].strip() for process in processes}
    assert len(keys) == 1 and len(keys.pop()) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]


def test_a_secret_that_another_process_wrote_meanwhile_stays(tmp_path):
    path = tmp_path / "signing.key"
    write_durably(path, b"first", replace=False)
    write_durably(path, b"second", replace=False)
    assert path.read_bytes() == b"first" and [each.name for each in tmp_path.iterdir()] == ["signing.key"]


def test_purge_lets_old_results_expire(tmp_path, store):
    old, failed, new = finished_job(store), finished_job(store, "failed"), finished_job(store)
    sql(store.store, "UPDATE jobs SET finished_at = finished_at - 7200 WHERE id != ?", new.id)
    results = Results(Settings(data=tmp_path, result_ttl_s=3600.0), store.store)
    folders = [with_files(results, tmp_path, job) for job in (old, new)]
    purge(results)
    assert [store.get(job.id).expired for job in (old, failed, new)] == [True, True, False]
    assert [folder.exists() for folder in folders] == [False, True]
    purge(results)
    assert not store.get(new.id).expired


def test_a_purge_of_many_lets_others_in_between(tmp_path, store):
    """A request is accepted while a purge of 2,000 results is under way, not after it."""
    sql(
        store.store,
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000) "
        'INSERT INTO jobs (id, token, model_id, "values", inputs, status, created_at, finished_at) '
        "SELECT 'old-' || n, 'anna', 'model', '{}', '{}', 'succeeded', 1, 1 FROM numbers",
    )
    results = Results(Settings(data=tmp_path, result_ttl_s=3600.0), store.store)

    async def go():
        purge = asyncio.create_task(results.purge())
        while len(await store.store.unexpired()) == 2000:
            await asyncio.sleep(0)
        await store.store.submit(Submission(str(uuid.uuid4()), "anna", "model", {}, {}))
        left = len(await store.store.unexpired())
        await purge
        return left, len(await store.store.unexpired())

    during, after = asyncio.run(go())
    assert (0 < during < 2000, after) == (True, 0)


def test_purge_lets_the_oldest_results_expire_when_there_is_too_much(tmp_path, store):
    jobs = [finished_job(store) for _ in range(3)]
    without_files = finished_job(store, "failed")
    running = store.submit(Submission(str(uuid.uuid4()), "anna", "model", {}, {}))
    store.assign(running.id)
    results = Results(Settings(data=tmp_path, results_max_bytes=250), store.store)
    for job in (*jobs, running):
        with_files(results, tmp_path, job, size=99)  # with the image 100 each
    purge(results)
    assert [store.get(job.id).expired for job in (*jobs, without_files, running)] == [True, True, False, False, False]
    assert {path.name for path in (tmp_path / "results").iterdir()} == {jobs[2].id, running.id}


def test_purge_finishes_what_a_crash_left_and_nothing_else(tmp_path, store, results):
    expired = finished_job(store)
    with_files(results, tmp_path, expired)
    store.expire([expired.id])  # noted, but the process died before it deleted the files
    foreign = [tmp_path / "results" / name for name in ("notes", str(uuid.uuid4()))]
    for folder in foreign:
        folder.mkdir()
    purge(results)
    assert sorted((tmp_path / "results").iterdir()) == sorted(foreign)


def test_purge_goes_on_where_files_vanish(tmp_path, store):
    expired = finished_job(store)
    results = Results(Settings(data=tmp_path, result_ttl_s=-1.0), store.store)
    folder = with_files(results, tmp_path, expired)
    (tmp_path / "results" / str(uuid.uuid4())).touch()  # its content cannot be listed
    if sys.platform != "win32":
        (folder / "gone.mp4").symlink_to(tmp_path / "gone")  # it is listed, but not there
    purge(results)
    assert not folder.exists() and store.get(expired.id).expired


def test_what_cannot_be_written_now_is_no_failure_of_the_video(tmp_path, store, results):
    """Where the request's folder should be is a file: as good as a full disk."""
    job = running_job(store)
    (tmp_path / "results" / job.id).touch()
    with pytest.raises(StorageError, match=job.id):
        asyncio.run(results.collect(ComfyClient("http://127.0.0.1:9"), OutputFile("a.mp4", "", "output", "73"), job))


@sqlite_only
def test_first_token_is_in_its_file_before_it_counts(tmp_path, store, caplog):
    """However far a killed start came, the next one ends with a token that works and is known."""
    for left in ("nothing", "draft", "draft and token"):
        (tmp_path / "token").unlink(missing_ok=True)
        store.revoke_token("default")
        if left != "nothing":
            (tmp_path / "token.new").write_text(f"wf_{left}")
        if left == "draft and token":
            asyncio.run(create_token(store.store, "default", text=f"wf_{left}"))
        asyncio.run(first_token(tmp_path))
        text = (tmp_path / "token").read_text()
        assert asyncio.run(find_token(store.store, text)).name == "default"
        assert left == "nothing" or text == f"wf_{left}"
        assert not (tmp_path / "token.new").exists()
    store.revoke_token("default")
    caplog.clear()
    assert not asyncio.run(first_token(tmp_path))
    assert store.tokens() == [], "a revoked token stays revoked"
    assert f"that in {tmp_path / 'token'} was revoked" in caplog.text


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_kept_token_goes_into_a_new_store(tmp_path, left):
    assert asyncio.run(first_token(tmp_path))
    text, path = (tmp_path / "token").read_text(), tmp_path / "store.sqlite3"
    assert not asyncio.run(first_token(tmp_path))
    path.unlink()
    if left != "nothing":
        path.touch()
    assert asyncio.run(first_token(tmp_path))
    with contextlib.closing(Blocking(SqliteStore(path))) as store:
        (token,) = store.tokens()
        assert asyncio.run(find_token(store.store, text)) == token
        assert token.operator, "it is for the person who runs ComfyUI"
    assert (tmp_path / "token").read_text() == text
    assert (tmp_path / "webhook.secret").read_text() == token.webhook_secret
