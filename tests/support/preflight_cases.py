"""Preflight inside a ComfyUI's own Python: ``python preflight_cases.py COMFYUI RESULTS``.

ComfyUI's dynamic memory manager runs on a GPU alone, but what preflight makes of it hangs on one flag of ComfyUI's.
What must come of each case is in tests/host/test_preflight_run.py.
"""

import json
from pathlib import Path

from vae_cases import RESULTS  # isort: skip -- first, it prepares the host
import comfy.memory_management
import folder_paths
import psutil
from wan_files import write_sparse
from wan_flf2v.preflight import checks, plan, plan_text
from wan_flf2v.sampling.gate import is_cfg_pp, refuse_with_cfg_functions
from wan_flf2v.sampling.schedule import RunSettings

FOLDER = Path(RESULTS).parent
BIG = psutil.virtual_memory().total - (32 << 20)
SETTINGS = RunSettings(steps=4, cfg=1.0, shift=8.0, sampler_name="euler_cfgpp", scheduler="simple")
for kind in ("loras", "text_encoders"):
    folder_paths.add_model_folder_path(kind, str(FOLDER))


def graph(lora):
    inputs = {"lora_name": lora, "strength_model": 1.0, "model": ["nowhere", 0]}
    return {
        "1": {"class_type": "LoraLoaderModelOnly", "inputs": inputs},
        "57": {"class_type": "WanFLF2VSampler", "inputs": {"model_high_noise": ["1", 0]}},
    }


def planned(name):
    made = plan.make_plan(
        {**dict.fromkeys(plan.FOLDERS), "text_encoder": name},
        plan.Video(64, 64, 64, 64, 9, 9, 3, 16.0),
        SETTINGS,
        FOLDER,
    )
    ram = next(line for line in plan_text.to_text(made).splitlines() if line.startswith("  RAM"))
    return {"ram": made.ram_bytes, "mapped": made.mapped_bytes, "warnings": made.warnings, "text": ram}


def refused(sampler_name):
    try:
        refuse_with_cfg_functions({}, sampler_name)
    except ValueError as error:
        return str(error)
    return None


write_sparse(FOLDER / "big.safetensors", BIG)
with (FOLDER / "big.gguf").open("wb") as file:
    file.truncate(BIG)
results = {}
for dynamic in (False, True):
    comfy.memory_management.aimdo_enabled = dynamic
    for name in ("big.safetensors", "big.gguf"):
        case = {"graph": checks.check_graph(graph(name)).warnings, "plan": planned(name)}
        results[f"{'dynamic' if dynamic else 'static'} {name}"] = case
names = ("euler", "euler_cfg_pp", "res_2s_cfgpp")
results["cfg_pp"] = {name: [is_cfg_pp(name), refused(name)] for name in names}
Path(RESULTS).write_text(json.dumps(results))
