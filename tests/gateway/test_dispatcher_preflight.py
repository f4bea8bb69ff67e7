"""Errors of preflight end a request before ComfyUI queues anything; a preflight that fails stops nobody."""

import asyncio
import uuid

import pytest
from aiohttp import web
from support.client_runs import with_client
from support.web_server import serve
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import ServerUnreachableError
from wan_flf2v.client.run import check_graph
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.validation import validate
from wan_flf2v.gateway.jobs.records import Submission


def ended(api, job):
    async def go():
        async with api.dispatching():
            return await api.until(job)

    return asyncio.run(go())


def test_missing_files_end_a_request_before_it_is_queued(api, comfy_server):
    values = validate(HOSTED, {"6_text": "a test", "68_image": "start.jpg", "62_image": "end.jpg"})
    job = asyncio.run(api.store.submit(Submission(str(uuid.uuid4()), "test", HOSTED.model_id, values, {})))
    end = ended(api, job)
    assert end.status == "failed"
    lines = end.error.splitlines()
    assert [line.split()[1] for line in lines] == ["37", "38", "39", "56"]
    assert lines[0] == (
        'Node 37 "High-noise expert" needs the model file "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", which '
        'this ComfyUI does not have. Put it into diffusion_models, or choose another in unet_name. "wan-flf2v models '
        "download --variant fp8\" on ComfyUI's machine gets it from "
        "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged."
    )
    assert str(comfy_server.base_dir) not in end.error, "a client learns nothing of the server's folders"
    assert with_client(comfy_server, lambda client: client.history(job.id)) is None


@pytest.mark.parametrize("status", [404, 405, 500])
def test_a_server_that_cannot_check_stops_nobody(status):
    """Such as a ComfyUI with an older pack."""

    async def answer(request):
        return web.json_response({"error": "no"}, status=status)

    async def go():
        async with serve(answer) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
            return await check_graph(client, {})

    assert asyncio.run(go()) == []


def test_a_server_that_is_not_there_is_said():
    async def go():
        async with ComfyClient("http://127.0.0.1:9") as client:
            await check_graph(client, {})

    with pytest.raises(ServerUnreachableError):
        asyncio.run(go())
