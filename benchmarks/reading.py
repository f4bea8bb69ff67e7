"""How many product files one has to read to follow node 57, and a request from its POST to its result.

Counted while they run: the files with a function that is called. In ComfyUI from node 57's start to its end; in a
gateway's process from the POST to the result. Prints the files.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable

from ..bootstrap.server import ComfyServer
from ..client.hosted_api import HostedApi
from ..contract.parameters import DEMO, END_IMAGE, FRAME_RATE, LENGTH, PROMPT, START_IMAGE, STEPS
from ..contract.workflow import Graph, graph_for
from ._figures import Figures, Options, summed
from ._gateway import GatewayProcess
from ._stage import comfyui_alone, run_graph

_NODE_LIMIT, _REQUEST_LIMIT = 9, 26
_WRITE_S = 30.0
_INPUTS = ("model_high_noise", "model_low_noise", "positive", "negative", "latent_image")


def run(options: Options) -> Figures:
    """Count once: the figures repeat exactly."""
    with comfyui_alone(options) as comfyui:
        node, request = _node_57(comfyui), _request(comfyui)
    for what, files in (("node 57", node), ("a request", request)):
        print(f"reading: {what}:", *files, sep="\n  ", flush=True)
    return {
        "node_57_files": summed([len(node)], "files", ("<=", _NODE_LIMIT)),
        "request_files": summed([len(request)], "files", ("<=", _REQUEST_LIMIT)),
    }


def _node_57(comfyui: ComfyServer) -> list[str]:
    graph: Graph = graph_for(DEMO)
    del graph[FRAME_RATE.inputs[0].node_id]  # the node that writes the video
    graph["68"]["inputs"]["image"], graph["62"]["inputs"]["image"] = START_IMAGE.default, END_IMAGE.default
    graph["71"]["inputs"].update(width=64, height=64)
    graph["67"]["inputs"]["length"] = 9
    sampler = graph["57"]["inputs"]
    passed = {f"input_{number}": sampler[name] for number, name in enumerate(_INPUTS)}
    graph["start"] = {"class_type": "WanFLF2VMeasureStartReading", "inputs": passed}
    sampler.update({name: ["start", number] for number, name in enumerate(_INPUTS)})
    inputs = {"latent": ["57", 0], "name": "reading"}
    graph["write"] = {"class_type": "WanFLF2VMeasureWriteReading", "inputs": inputs}
    run_graph(comfyui, graph)
    files: list[str] = json.loads((comfyui.base_dir / "output" / "reading.json").read_text("utf-8"))
    return files


def _request(comfyui: ComfyServer) -> list[str]:
    folder = comfyui.base_dir.parent
    output = folder / "request.json"
    program = ("-m", "wan_flf2v.benchmarks._called_files", str(output))
    gateway = GatewayProcess(folder / "gateway", comfyui.url, "--demo", program=program)
    try:
        gateway.start()
        gateway.process.send_signal(signal.SIGUSR1)
        asyncio.run(_submit_and_wait(gateway))
        gateway.process.send_signal(signal.SIGUSR2)
        _wait(output.exists)
    finally:
        gateway.stop()
    files: list[str] = json.loads(output.read_text("utf-8"))
    return files


async def _submit_and_wait(gateway: GatewayProcess) -> None:
    values = {parameter.key: parameter.default for parameter in (PROMPT, START_IMAGE, END_IMAGE)}
    async with HostedApi(gateway.api, gateway.token) as api:
        request = await api.submit(DEMO.model_id, {**values, LENGTH.key: 17, STEPS.key: 2})
        while (result := await api.result(str(request["request_id"])))["status"] not in ("succeeded", "failed"):
            await asyncio.sleep(0.2)
    if result["status"] == "failed":
        raise RuntimeError(f"the request failed: {result}")


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WRITE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the gateway did not write which files it used")
        time.sleep(0.05)
