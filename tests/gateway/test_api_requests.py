"""The list of a token's requests, and the signed address of an event stream."""

import asyncio
import base64
import http.client
import io
import os
import threading
from urllib.parse import urlsplit

import pytest
from PIL import Image
from support.gateway_process import SUBMIT, all_events, call
from support.stores import sql, sqlite_only
from wan_flf2v.gateway.jobs.results import MAX_PREVIEW_BYTES, Results
from wan_flf2v.gateway.settings import Settings


@pytest.fixture
def token(gateway):
    """A token that has no request yet."""
    return gateway.new_token(f"t{os.urandom(4).hex()}")


@pytest.fixture
def submitted(gateway, token):
    """Seven requests of one token, the oldest first: one ran and succeeded, one failed, one was cancelled."""
    ids = [gateway.submit(token=token, **{"57_noise_seed": number}) for number in range(7)]
    gateway.submit()
    with gateway.store() as store:
        for number, status in ((0, "succeeded"), (2, "failed"), (3, "cancelled")):
            store.assign(ids[number])
            if status == "succeeded":
                gateway.succeed(store, ids[number])
            store.end(ids[number], status, error="why")
    return ids


def listed(gateway, token, query=""):
    answer = gateway.get(f"/v1/requests{query}", token=token)
    assert answer.status == 200, answer.content
    return answer.json


def ids_of(body):
    return [request["request_id"] for request in body["requests"]]


class TestList:
    def test_it_has_the_requests_of_this_token_newest_first(self, gateway, token, submitted):
        body = listed(gateway, token)
        assert ids_of(body) == submitted[::-1]
        assert body["next_cursor"] is None
        newest = body["requests"][0]
        assert set(newest) == {"request_id", "model_id", "status", "created_at", "finished_at", "input"}
        assert (newest["status"], newest["finished_at"]) == ("in_queue", None)
        assert newest["input"]["57_noise_seed"] == 6
        assert not {"62_image", "68_image"} & set(newest["input"]), "an image's name here means nothing to a client"

    def test_a_status_is_that_of_the_result_call(self, gateway, token, submitted):
        expected = {"succeeded": [0], "failed": [2], "cancelled": [3], "in_progress": [], "in_queue": [6, 5, 4, 1]}
        for status, numbers in expected.items():
            assert ids_of(listed(gateway, token, f"?status={status}")) == [submitted[n] for n in numbers], status

    def test_pages_are_stable_while_new_requests_come(self, gateway, token, submitted):
        found, query = [], "?limit=3"
        while query:
            body = listed(gateway, token, query)
            found += ids_of(body)
            gateway.submit(token=token)
            query = body["next_cursor"] and f"?limit=3&cursor={body['next_cursor']}"
        assert found == submitted[::-1]

    def test_equal_times_are_ordered_by_id(self, gateway, token, submitted):
        with gateway.store() as store:
            sql(store, "UPDATE jobs SET created_at = 1000 WHERE id IN (?, ?, ?, ?, ?, ?, ?)", *submitted)
        first = listed(gateway, token, "?limit=4")
        rest = listed(gateway, token, f"?cursor={first['next_cursor']}")
        assert ids_of(first) + ids_of(rest) == sorted(submitted, reverse=True)

    def test_what_expired_or_lost_its_files_is_not_there(self, gateway, token, submitted):
        with gateway.store() as store:
            store.expire([submitted[2]])
        (gateway.data / "results" / submitted[0] / "video.mp4").unlink()
        assert ids_of(listed(gateway, token)) == [submitted[n] for n in (6, 5, 4, 3, 1)]

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "status=completed", "cursor=x", "cursor=%00", "cursor="]
    )
    def test_bad_queries_are_400(self, gateway, token, query):
        answer = gateway.get(f"/v1/requests?{query}", token=token)
        assert (answer.status, answer.code) == (400, 400001)
        assert query.split("=")[0] in answer.json["error_message"]

    def test_the_cursor_of_another_token_is_none(self, gateway, token, submitted):
        stranger = gateway.new_token(f"s{os.urandom(4).hex()}")
        assert gateway.get(f"/v1/requests?cursor={submitted[3]}", token=stranger).status == 404
        assert listed(gateway, stranger)["requests"] == []
        assert call(gateway.url, "GET", "/v1/requests").status == 401


def test_later_ids_are_greater(gateway):
    ids = []
    for _ in range(3):
        ids.append(gateway.submit())
        threading.Event().wait(0.002)  # the ids count milliseconds
    assert ids == sorted(ids)
    assert all(request_id[14] == "7" for request_id in ids)


def stream(gateway, path):
    """Open an event stream without a token; return the response."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=60)
    connection.request("GET", path)
    return connection.getresponse()


def path_of(url):
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


class TestEventsUrl:
    @pytest.fixture
    def request_id(self, gateway, token):
        return gateway.submit(token=token)

    @pytest.fixture
    def path(self, gateway, token, request_id):
        return path_of(gateway.get(f"/v1/requests/{request_id}/status", token=token).json["events_url"])

    def test_it_needs_no_token_and_works_again(self, gateway, request_id, path):
        for _ in range(2):
            response = stream(gateway, path)
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.readline().startswith(b"id: ")
            response.close()
        gateway_log = gateway.log_text()
        assert "signature" not in gateway_log and "expires=" not in gateway_log

    def test_submit_gives_it_too_and_both_stay_the_same(self, gateway, token):
        answer = gateway.post(SUBMIT, {"62_image": "a.png", "68_image": "b.png", "6_text": "c"}, token=token).json
        status = gateway.get(f"/v1/requests/{answer['request_id']}/status", token=token).json
        paths = [path_of(body["events_url"]) for body in (answer, status)]
        assert paths[0].split("?")[0] == paths[1].split("?")[0]
        assert all(stream(gateway, path).status == 200 for path in paths)

    def test_it_is_of_no_other_request_call_or_expiry(self, gateway, token, request_id, path):
        other = gateway.submit(token=token)
        query = path.partition("?")[2]
        expires = query.split("&")[0].split("=")[1]
        refused = [
            path.replace(request_id, other),
            path.replace(expires, str(int(expires) + 1)),
            path[:-1] + ("0" if path[-1] != "0" else "1"),
            f"/v1/requests/{request_id}/events?signature=",
            f"/v1/results/{request_id}/events?{query}",
        ]
        for each in refused:
            answer = call(gateway.url, "GET", each)
            assert (answer.status, answer.code) == (403, 403001), each
        for method, name in (("GET", "status"), ("GET", "result"), ("POST", "cancel")):
            assert call(gateway.url, method, f"/v1/requests/{request_id}/{name}?{query}").status == 401, name

    def test_it_expires(self, new_gateway):
        short = new_gateway(url_ttl_s=-2 * 3600)
        status = short.status(short.submit())
        answer = call(short.url, "GET", path_of(status["events_url"]))
        assert (answer.status, answer.code) == (403, 403001)
        assert "expired" in answer.json["error_message"]

    def test_revoking_the_token_ends_it(self, gateway):
        token = gateway.new_token("revoked-soon")
        request_id = gateway.submit(token=token)
        path = path_of(gateway.get(f"/v1/requests/{request_id}/status", token=token).json["events_url"])
        open_stream = stream(gateway, path)
        assert open_stream.readline().startswith(b"id: ")
        with gateway.store() as store:
            assert store.revoke_token("revoked-soon")
        open_stream.read()  # it ends
        answer = call(gateway.url, "GET", path)
        assert (answer.status, answer.code) == (403, 403001)


def noise(size):
    stream = io.BytesIO()
    Image.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def jpeg(color):
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), color).save(stream, "JPEG")
    return stream.getvalue()


def picture_in(data):
    return base64.b64decode(data["image"].removeprefix("data:image/jpeg;base64,"))


class TestPreviews:
    @pytest.fixture
    def running(self, gateway):
        request_id = gateway.submit()
        with gateway.store() as store:
            store.assign(request_id)
        yield request_id
        gateway.cancel(request_id)

    def put(self, gateway, request_id, content):
        folder = gateway.data / "previews"
        (folder / "new").write_bytes(content)
        (folder / "new").replace(folder / f"{request_id}.jpg")

    def test_only_who_asks_gets_them_without_an_id(self, gateway, running):
        first, second = jpeg("red"), jpeg("blue")
        self.put(gateway, running, first)
        found = all_events(gateway, f"/v1/requests/{running}/events?preview=1")
        seen = [next(found) for _ in range(2)]
        self.put(gateway, running, second)
        seen.append(next(found))
        assert [(name, bool(event_id)) for name, event_id, _ in seen] == [
            ("status", True), ("preview", False), ("preview", False)
        ]  # fmt: skip
        assert [picture_in(data) for *_, data in seen[1:]] == [first, second]
        plain = all_events(gateway, f"/v1/requests/{running}/events")
        next(plain)
        gateway.cancel(running)
        with gateway.store() as store:
            store.end(running, "cancelled")
        assert {name for name, *_ in plain} == {"status"}

    def test_the_newest_replaces_those_that_were_not_sent(self, gateway, running):
        pictures = [jpeg((20 * number, 0, 0)) for number in range(10)]
        found = all_events(gateway, f"/v1/requests/{running}/events?preview=1")
        next(found)
        for picture in pictures:
            self.put(gateway, running, picture)
        seen = 1
        while picture_in(next(found)[2]) != pictures[-1]:
            seen += 1
        assert seen < len(pictures)

    def test_an_event_has_no_new_link(self, gateway, running):
        """Who has the link to a stream could renew it for ever."""
        _, _, data = next(all_events(gateway, f"/v1/requests/{running}/events"))
        assert set(data) == {"request_id", "status", "status_url", "result_url"}

    def test_bad_values_are_400(self, gateway, running):
        assert gateway.get(f"/v1/requests/{running}/events?preview=perhaps").status == 400


@sqlite_only
@pytest.mark.parametrize(
    ("content", "kept"),
    [(jpeg("red"), True), (noise((512, 512)), True), (noise((2000, 30)), True), (b"no image", False), (b"", False)],
    ids=["small", "large", "wide", "text", "empty"],
)
def test_a_kept_preview_is_a_small_jpeg(tmp_path, store, content, kept):
    results = Results(Settings(data=tmp_path), store)
    asyncio.run(results.keep_preview("id", content))
    found = asyncio.run(results.preview("id", 0))
    assert (found is not None) == kept
    if found is not None:
        version, image = found
        assert len(image) <= MAX_PREVIEW_BYTES
        assert Image.open(io.BytesIO(image)).format == "JPEG"
        assert asyncio.run(results.preview("id", version)) is None
        asyncio.run(results.purge())
        assert asyncio.run(results.preview("id", 0)) is None, "of no running job"
    assert list((tmp_path / "previews").iterdir()) == []
