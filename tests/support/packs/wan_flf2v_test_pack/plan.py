"""What the host does with a real model, beside what the plan says of it without one."""

import json
import sys
from itertools import product
from pathlib import Path

import comfy.sampler_helpers
import comfy.samplers
import folder_paths
from comfy_api.latest import io


def plan_module():
    """Return ``preflight.plan`` of the pack under test; ComfyUI chose the name of the pack."""
    return next(module for key, module in sys.modules.items() if key.endswith(".preflight.plan"))


def write(name, content):
    (Path(folder_paths.get_output_directory()) / f"{name}.json").write_text(json.dumps(content))
    return {"ui": {"images": [{"filename": f"{name}.json", "subfolder": "", "type": "output"}]}}


class CompareSigmas:
    """Plan every sampler with every scheduler, and compare with the sigmas of the host's KSampler on ``model``."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "name": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "compare", True, "test"
    IS_CHANGED = classmethod(lambda cls, **_: float("nan"))

    def compare(self, model, name):
        host, plan = comfy.samplers.KSampler, plan_module()
        shift = model.get_model_object("model_sampling").shift
        runs = ((4, 1.0), (20, 1.0), (20, 0.6))
        cases, different = 0, []
        for sampler, scheduler, (steps, denoise) in product(host.SAMPLERS, host.SCHEDULERS, runs):
            expected = host(model, steps, model.load_device, sampler, scheduler, denoise).sigmas.tolist()
            sampling = plan.RunSettings(
                steps=steps, cfg=4.0, shift=shift, sampler_name=sampler, scheduler=scheduler, denoise=denoise,
                handover="half",
            )  # fmt: skip
            video = plan.Video(64, 64, 64, 64, 9, 9, 3, 16.0)
            made = plan.make_plan(dict.fromkeys(plan.FOLDERS), video, sampling, Path())
            cases += 1
            if [*(step.sigma for step in made.steps), made.final_sigma] != expected:
                different.append([sampler, scheduler, steps, denoise])
        return write(name, {"cases": cases, "different": different})


class EstimateMemory:
    """Ask the host what it must have besides the weights to sample ``latent`` with ``model``."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"model": ("MODEL",), "latent": ("LATENT",), "name": ("STRING", {})}}
    )
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "estimate", True, "test"
    IS_CHANGED = classmethod(lambda cls, **_: float("nan"))

    def estimate(self, model, latent, name):
        _, needed = comfy.sampler_helpers.estimate_memory(model, latent["samples"].shape, {})
        dtype = str(model.model.get_dtype_inference())
        return write(name, {"bytes": int(needed), "weights": model.model_size(), "dtype": dtype})


class Keep(io.ComfyNode):
    """An output node for two texts and a picture, so that a test can see what another node's outputs hold."""

    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("text", force_input=True), io.String.Input("json", force_input=True)]
        inputs += [io.Image.Input("plot"), io.String.Input("name")]
        return io.Schema(node_id="WanFLF2VTestKeep", category="test", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, text, json, plot, name):
        kept = {"text": text, "json": json, "shape": list(plot.shape), "dtype": str(plot.dtype)}
        kept["range"] = [plot.min().item(), plot.max().item()]
        return io.NodeOutput(ui=write(name, kept)["ui"])


NODES = {"CompareSigmas": CompareSigmas, "EstimateMemory": EstimateMemory, "Keep": Keep}
NODE_CLASS_MAPPINGS = {f"WanFLF2VTest{name}": cls for name, cls in NODES.items()}
