"""A decode that shares the device with another model, in a ComfyUI's own Python: ``python ... COMFYUI RESULTS``."""

import json
from pathlib import Path

from vae_cases import RESULTS, new_vae, noise  # isort: skip -- first, it prepares the host
import comfy.model_management
import comfy.model_patcher
import torch
from wan_flf2v.video.vae_decode import decode

with torch.inference_mode():
    samples = noise(1, 16, 5, 4, 4) * 2 - 1
    vae = new_vae()
    alone = torch.cat(list(decode(vae, samples, floats=True)[0].parts))
    other = comfy.model_patcher.ModelPatcher(torch.nn.Linear(4, 4), torch.device("cpu"), torch.device("cpu"))
    other.model.device = torch.device("cpu")
    (clip,) = decode(vae, samples, floats=True, beside=[other])
    parts, loaded = [], 0
    for part in clip.parts:
        loaded += any(known.model is vae.patcher for known in comfy.model_management.current_loaded_models)
        parts.append(part)
        comfy.model_management.unload_all_models()
    shared = torch.cat(parts)
    result = {"alike": torch.equal(alone, shared), "loaded": loaded, "frames": len(shared)}
Path(RESULTS).write_text(json.dumps(result))
