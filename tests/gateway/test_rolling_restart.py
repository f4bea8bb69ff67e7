"""A fleet is restarted as for an update, one program after the other, under load: nothing is lost or run twice."""

import asyncio
import contextlib
import sys
import threading
import time
from collections import Counter

import pytest
from support.gateway_process import BODY, SUBMIT_DEMO, Gateway
from support.stores import fleet_url
from wan_flf2v.benchmarks._gateway import worker_processes
from wan_flf2v.benchmarks._stand_in import stand_ins

RUN_S = 1.5
UNFINISHED = 5  # requests that two workers cannot end before others come
NAMES = {"worker-0", "worker-1"}


class Client:
    """Calls the API through the gateway that it is told to use, as a load balancer does, and keeps what it got."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.statuses = Counter()
        self.ids = []
        self.lock = threading.Lock()
        self.enough = threading.Event()

    def go_to(self, gateway):
        """Use another gateway; the calls that have begun end first."""
        with self.lock:
            self.gateway = gateway

    def call(self, *arguments):
        with self.lock:
            answer = self.gateway.call(*arguments)
        self.statuses[answer.status] += 1
        return answer

    def submit_all(self):
        """Let several requests be unfinished until there are enough, and look at one of before now and then."""
        while not self.enough.is_set():
            while len(self.unfinished()) < UNFINISHED:
                self.ids.append(self.call("POST", SUBMIT_DEMO, BODY).json["request_id"])
            self.call("GET", f"/v1/requests/{self.ids[len(self.ids) // 2]}/status")
            time.sleep(0.2)

    def unfinished(self):
        listed = (self.call("GET", f"/v1/requests?status={status}") for status in ("in_queue", "in_progress"))
        return [each for answer in listed for each in answer.json["requests"]]

    def workers_at_work(self):
        workers = self.call("GET", "/v1/workers").json["workers"]
        return {worker["name"] for worker in workers if worker["state"] in ("idle", "running")}

    def wait_for_workers(self):
        deadline = time.monotonic() + 60
        while (found := self.workers_at_work()) != NAMES:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_fleet_is_restarted_one_after_the_other_and_loses_nothing(tmp_path):
    def use(hosts):
        url = fleet_url(tmp_path)
        first = Gateway(tmp_path / "first", [], "--demo", nats=url)
        second = first.twin()
        with first, second, worker_processes(tmp_path / "workers", url, [host.url for host in hosts]) as workers:
            client = Client(second)
            client.wait_for_workers()
            load = threading.Thread(target=client.submit_all)
            load.start()
            while len(client.ids) < UNFINISHED:
                time.sleep(0.05)
            with contextlib.ExitStack() as stack:
                stack.callback(load.join)
                stack.callback(client.enough.set)
                for program, other in ((first, second), (second, first), *((worker, first) for worker in workers)):
                    client.go_to(other)
                    assert client.unfinished()
                    program.stop()
                    assert program.process.returncode == 0, program.log_text()[-3000:]
                    program.start()
                    client.wait_for_workers()
                assert client.unfinished(), "there was load all the time"
            logs = "".join(program.log_text() for program in (first, second, *workers))
            for request_id in client.ids:
                assert first.wait(request_id)["status"] == "completed"
                assert second.result(request_id)["status"] == "succeeded"
            return client, logs

    async def test():
        async with stand_ins(2, seconds=RUN_S) as hosts:
            for host in hosts:
                host.files.update({("input", "", name): b"a photograph" for name in BODY.values()})
            client, logs = await asyncio.to_thread(use, hosts)
            assert client.statuses.keys() == {200}
            ran = [prompt for host in hosts for prompt, *_ in host.ran]
            assert sorted(ran) == sorted(client.ids), f"each ran once, in its first attempt\n{logs}"
            assert all(host.ran for host in hosts)

    asyncio.run(asyncio.wait_for(test(), 280))
