"""Plans of runs, made by the Plan node of a real ComfyUI."""

import json

from wan_flf2v.client.run import run_graph

from support.client_runs import with_client
from support.preflight_runs import HIGH, LOW

DEFAULTS = {
    "model_high_noise": HIGH,
    "model_low_noise": LOW,
    "text_encoder": "tiny_umt5.safetensors",
    "vae": "tiny_wan_vae.safetensors",
    "width": 720,
    "height": 720,
    "length": 81,
    "frame_rate": 16.0,
    "steps": 20,
    "cfg": 4.0,
    "cfg_low_noise": 0.0,
    "shift": 8.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
    "handover": "boundary",
    "handover_step": 10,
    "boundary": 0.9,
}
NO_FILES = dict.fromkeys(("model_high_noise", "model_low_noise", "text_encoder", "vae"), "none")


def plan(server, **inputs):
    """Return the plan's text and its JSON as an object."""
    graph = {"1": {"class_type": "WanFLF2VPlan", "inputs": {**DEFAULTS, **inputs}}}

    async def use(client):
        result = await run_graph(client, graph)
        return await client.outputs(result.prompt_id, "1")

    shown = with_client(server, use)
    return shown["text"][0], json.loads(shown["json"][0])
