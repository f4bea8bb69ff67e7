"""What operators see of several ComfyUIs behind a gateway process: /v1/workers, metrics, the command line, the log."""

import asyncio
import json
import re
import subprocess
import sys
import time

from support.api_runs import SMALL
from support.gateway_process import SUBMIT_DEMO, Gateway
from support.stores import nats_url
from wan_flf2v.benchmarks._stand_in import StandIn, stand_ins
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.contract.workflow import graph_for

IMAGES = {"68_image": "start.jpg", "62_image": "end.jpg"}
NAMES = ("start.jpg", "end.jpg")
SECRET = "the secret of a proxy"


def beside(hosts, work, folder, **config):
    """Run ``work(gateway)``, which blocks, with a gateway process in front of stand-ins."""

    async def go():
        for host in hosts:
            host.files.update({("input", "", name): b"a photograph" for name in NAMES})

        def use():
            with Gateway(folder, [host.url for host in hosts], "--demo", config=config) as gateway:
                return work(gateway)

        return await asyncio.to_thread(use)

    return go()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_operators_see_each_worker_and_can_drain_one(tmp_path):
    environment = {"COLUMNS": "400"}
    if url := nats_url(tmp_path):
        environment["WAN_FLF2V_NATS_URL"] = url

    def cli(*arguments):
        command = [sys.executable, "-I", "-m", "wan_flf2v", "workers", *arguments, "--data", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def workers(gateway):
        response = gateway.get("/v1/workers")
        assert response.status == 200
        return {each["name"]: each for each in response.json["workers"]}

    def until(gateway, url, **wanted):
        while True:
            found = workers(gateway).get(url, {})
            if wanted.items() <= found.items():
                return found

    async def test():
        async with stand_ins(2) as hosts:
            one, two = (host.url for host in hosts)

            def use(gateway):
                until(gateway, two, state="idle", version="0.30.0", instance=hosts[1].instance)
                assert gateway.get("/v1/workers", token=None).status == 401
                assert cli("drain", "http://nowhere").returncode == 2
                drained = cli("drain", one)
                assert drained.returncode == 0, drained.stderr
                assert until(gateway, one, drained=True)["state"] == "idle"
                for _ in range(3):
                    gateway.wait(gateway.submit(SUBMIT_DEMO, **IMAGES, **SMALL))
                listed = cli("list").stdout
                assert re.search(rf"{one}\W+idle, drained", listed), listed
                metrics = gateway.get("/metrics").content.decode()
                assert f'wan_flf2v_worker_state{{worker="{one}",state="idle"}} 1' in metrics
                assert f'wan_flf2v_worker_drained{{worker="{one}"}} 1' in metrics
                assert cli("drain", one, "--undo").returncode == 0
                until(gateway, one, drained=False)
                log = gateway.log_text()
                ids = re.findall(r"job started request_id=(\S+) attempt=1 worker=(\S+)", log)
                assert {worker for _, worker in ids} == {two}
                for request_id, _ in ids:
                    assert f"job ended request_id={request_id} attempt=1 worker={two} status=succeeded" in log

            await beside(hosts, use, tmp_path)
            assert (len(hosts[0].ran), len(hosts[1].ran)) == (0, 3)

    asyncio.run(test())


def test_only_an_operator_sees_addresses_errors_and_what_others_run(tmp_path):
    async def test():
        async with stand_ins(3, seconds=60.0) as hosts:
            loop = asyncio.get_running_loop()

            def use(gateway):
                guest = gateway.new_token("guest")

                def seen(token):
                    return gateway.get("/v1/workers", token=token).json["workers"]

                asyncio.run_coroutine_threadsafe(hosts[2].kill(), loop).result()
                runs = {token: gateway.submit(SUBMIT_DEMO, token=token, **IMAGES) for token in (gateway.token, guest)}
                wait_for(lambda: sorted(each["state"] for each in seen(guest)) == ["lost", "running", "running"])
                all_of_it, some = seen(gateway.token), seen(guest)
                assert [each["name"] for each in all_of_it] == [host.url for host in hosts]
                assert [each["instance"] for each in all_of_it[:2]] == [host.instance for host in hosts[:2]]
                assert {each["request_id"] for each in all_of_it} == {*runs.values(), None}
                assert hosts[2].url in all_of_it[2]["error"]
                for number, (whole, part) in enumerate(zip(all_of_it, some, strict=True), 1):
                    theirs = whole["request_id"] != runs[guest]
                    hidden = {"request_id": None, "attempt": None} if theirs else {}
                    blank = {"name": f"ComfyUI {number}", "instance": None, "error": None}
                    assert part == whole | blank | hidden
                assert runs[guest] in {each["request_id"] for each in some}
                metrics = {token: gateway.get("/metrics", token=token).content.decode() for token in runs}
                assert f'worker="{hosts[0].url}",state="running"}} 1' in metrics[gateway.token]
                assert 'worker="ComfyUI 1",state="running"} 1' in metrics[guest]
                assert "127.0.0.1" not in metrics[guest] + json.dumps(some)

            await beside(hosts, use, tmp_path)

    asyncio.run(asyncio.wait_for(test(), 120))


def test_without_tokens_every_caller_is_an_operator(tmp_path):
    async def test():
        async with stand_ins(1) as hosts:

            def use(url):
                with Gateway(tmp_path, url, "--no-auth") as gateway:
                    wait_for(lambda: gateway.get("/v1/workers", token=None).json["workers"])
                    (worker,) = gateway.get("/v1/workers", token=None).json["workers"]
                    assert worker["name"] == url

            await asyncio.to_thread(use, hosts[0].url)

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_model_is_refused_only_if_every_comfyui_is_known_to_lack_it(tmp_path):
    low = graph_for(DEMO)["56"]["inputs"]["unet_name"]

    async def test():
        async with StandIn(lacks=(low,)) as without, StandIn() as complete:
            loop = asyncio.get_running_loop()

            def use(gateway):
                request_id = gateway.submit(SUBMIT_DEMO, **IMAGES, **SMALL)
                assert gateway.wait(request_id)["status"] == "completed"
                assert gateway.result(request_id)["status"] == "succeeded"
                nowhere = gateway.post(SUBMIT_DEMO, {"6_text": "x", **IMAGES, "68_image": "nowhere.png", **SMALL})
                assert nowhere.status == 422
                assert 'There is no file "nowhere.png"' in nowhere.json["error_message"]

            await beside([without, complete], use, tmp_path / "both")

            def waits(gateway):
                gateway.get("/readyz")  # ends when all have been asked
                request_id = gateway.submit(SUBMIT_DEMO, **IMAGES, **SMALL)
                asyncio.run_coroutine_threadsafe(complete.start(), loop).result()
                gateway.wait(request_id)
                assert gateway.result(request_id)["status"] == "succeeded"

            await complete.kill()
            await beside([without, complete], waits, tmp_path / "one")
            assert [len(host.ran) for host in (without, complete)] == [0, 2]

            def refused(gateway):
                response = gateway.post(SUBMIT_DEMO, {"6_text": "x", **IMAGES, **SMALL})
                assert (response.status, response.code) == (503, 503002)
                assert low in response.json["error_message"]

            complete.lacks = (low,)
            await beside([without, complete], refused, tmp_path / "none")

    asyncio.run(test())


def test_images_that_no_single_comfyui_has_are_refused_with_where_they_are(tmp_path):
    async def test():
        async with stand_ins(3) as hosts:
            for host, name in zip(hosts, ("one.png", "two.png", "one.png"), strict=True):
                host.files["input", "", name] = b"a photograph"
            body = {"6_text": "x", "68_image": "one.png", "62_image": "two.png", **SMALL}

            def use(gateway):
                refused = gateway.post(SUBMIT_DEMO, body)
                assert refused.status == 422
                texts = {entry["loc"][1]: entry["msg"] for entry in refused.json["detail"]}
                assert texts.keys() == {"68_image", "62_image"}
                assert 'The file "one.png" is in the input folder of ComfyUI 1, 3 of 3' in texts["68_image"]
                assert 'The file "two.png" is in the input folder of ComfyUI 2 of 3' in texts["62_image"]
                assert not re.search(r"127\.0\.0\.1|:\d", refused.content.decode().partition('"detail"')[0])
                mixed = gateway.post(SUBMIT_DEMO, {**body, "68_image": "start.jpg"})
                assert mixed.status == 200, "the second has both"
                hosts[1].files["input", "", "one.png"] = b"a photograph"
                again = gateway.post(SUBMIT_DEMO, body)
                assert again.status == 200, again.content
                gateway.wait(again.json["request_id"])
                assert gateway.result(again.json["request_id"])["status"] == "succeeded"

            await beside(hosts, use, tmp_path)
            assert [len(host.ran) for host in hosts] == [0, 2, 0]

    asyncio.run(test())


def test_a_proxys_token_is_sent_and_never_logged(tmp_path):
    async def test():
        async with stand_ins(1) as hosts:

            def use(gateway):
                gateway.wait(gateway.submit(SUBMIT_DEMO, **IMAGES, **SMALL))
                shown = gateway.log_text() + json.dumps(gateway.get("/v1/workers").json)
                assert SECRET not in shown

            await beside(hosts, use, tmp_path, comfyui_tokens=[SECRET])
            assert hosts[0].headers["Authorization"] == f"Bearer {SECRET}"

    asyncio.run(test())
