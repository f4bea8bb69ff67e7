"""Samplers that other packs could bring, and nodes that look into a run."""

import gc
import json
import random
from pathlib import Path

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import folder_paths
import numpy as np
import torch

from .dump import Dump


class PlainSampler(comfy.samplers.Sampler):
    """No ``KSAMPLER``: euler with a mask treated as the host does, written against the guider."""

    def sample(self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=0):
        model = comfy.samplers.KSamplerX0Inpaint(guider, sigmas)
        model.latent_image, model.noise = latent_image, noise
        x, batch = noise, noise.new_ones([noise.shape[0]])
        for step in range(len(sigmas) - 1):
            denoised = model(x, sigmas[step] * batch, denoise_mask, **extra_args)
            callback(step, denoised, x, len(sigmas) - 1)
            x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
        return x


class OwnSample(comfy.samplers.KSAMPLER):
    """A ``KSAMPLER`` whose ``sample`` is not the host's."""

    def sample(self, *args, **kwargs):
        return super().sample(*args, **kwargs) * 0.5


def euler_with_noise(draw):
    """Return a sampler function: euler with noise of ``draw``, a function of x, at the start and after each step."""

    def sample_euler_with_noise(model, x, sigmas, extra_args, callback, disable):
        batch, x = x.new_ones([x.shape[0]]), x + 0.1 * sigmas[0] * draw(x)
        for step in range(len(sigmas) - 1):
            denoised = model(x, sigmas[step] * batch, **extra_args)
            callback({"i": step, "denoised": denoised, "x": x, "sigma": sigmas[step], "sigma_hat": sigmas[step]})
            x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
            x += 0.1 * sigmas[step + 1] * draw(x)
        return x

    return sample_euler_with_noise


def sample_reads_cfg(model, x, sigmas, extra_args, callback, disable):
    """Euler that asks at a lower sigma by the guider's cfg, as Detail Daemon does, and changes its model's noise."""
    model.noise = model.noise * 1.0
    batch = x.new_ones([x.shape[0]])
    for step in range(len(sigmas) - 1):
        asked = sigmas[step] * (1 - 0.001 * model.inner_model.cfg) * batch
        denoised = model(x, asked, extra_args.get("denoise_mask"), extra_args["model_options"], extra_args["seed"])
        x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
    return x


class PastTheGuider(comfy.samplers.Sampler):
    """Asks the model without the guider."""

    def sample(self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=0):
        return guider.predict_noise(noise, sigmas[0] * noise.new_ones([noise.shape[0]]), extra_args["model_options"])


def sample_post_cfg(model, x, sigmas, extra_args, callback, disable):
    """Euler on what its own post-cfg function saw, with and without an unconditional prediction."""
    seen = []

    def post_cfg(call):
        seen.append(call)
        return call["denoised"]

    options = comfy.model_patcher.set_model_options_post_cfg_function(extra_args["model_options"].copy(), post_cfg)
    batch = x.new_ones([x.shape[0]])
    for step in range(len(sigmas) - 1):
        denoised = model(x, sigmas[step] * batch, **{**extra_args, "model_options": options})
        call = seen[-1]
        tensors = ["cond_denoised", "denoised", "input", "sigma", "uncond_denoised"]
        keys = sorted(["cond", "cond_scale", "model", "model_options", "uncond", *tensors])
        assert sorted(call) == keys
        assert torch.equal(call["input"], x)
        # The phase's own, played or asked: hosts from 0.33 on set latent_shapes on it, which samplers read.
        assert call["model"] is model.inner_model.inner_model
        direction = x - (call["cond_denoised"] if call["uncond"] is None else call["uncond_denoised"])
        x = denoised + direction / sigmas[step] * sigmas[step + 1]
    return x


GENERATOR = torch.Generator()
DRAWS = {
    "torch": lambda x: torch.randn(x.shape),
    "numpy": lambda x: torch.from_numpy(np.random.standard_normal(x.shape)).to(x),
    "python": lambda x: random.gauss(0.0, 1.0) * torch.ones_like(x),
    "own": lambda x: torch.randn(x.shape, generator=GENERATOR),
}
SAMPLERS = {
    "plain": PlainSampler,
    "own sample": lambda: OwnSample(comfy.samplers.sampler_object("dpmpp_2m").sampler_function),
    "past the guider": PastTheGuider,
    "reads cfg": lambda: comfy.samplers.KSAMPLER(sample_reads_cfg),
    "post cfg": lambda: comfy.samplers.KSAMPLER(sample_post_cfg),
}
for name in DRAWS:
    SAMPLERS[f"noise {name}"] = lambda draw=DRAWS[name]: comfy.samplers.KSAMPLER(euler_with_noise(draw))


class Sampler:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"kind": (list(SAMPLERS),)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("SAMPLER",), "make", "test"

    def make(self, kind):
        return (SAMPLERS[kind](),)


class Noise:
    """Noise that seeds every generator, once at the beginning of a run."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("NOISE",), "make", "test"
    IS_CHANGED = classmethod(lambda cls, **_: float("nan"))
    seed = 1

    def make(self):
        return (self,)

    def generate_noise(self, latent):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        GENERATOR.manual_seed(1)
        return comfy.sample.prepare_noise(latent["samples"], 1)


class DrawInModel:
    """Have the model draw from torch's generator in every call, as a patch that adds noise would."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model):
        def wrapper(executor, *args, **kwargs):
            return executor(*args, **kwargs) * (1 + 0.01 * torch.randn(1).item())

        model = model.clone()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "draw", wrapper)
        return (model,)


class Steps(Dump):
    """Run a guider and write the step callbacks that it made: [step, total]."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {
                "guider": ("GUIDER",),
                "sampler": ("SAMPLER",),
                "sigmas": ("SIGMAS",),
                "latent": ("LATENT",),
                "name": ("STRING", {}),
            }
        }
    )

    def dump(self, guider, sampler, sigmas, latent, name):
        steps, noise = [], torch.randn_like(latent["samples"])
        guider.sample(
            noise, latent["samples"], sampler, sigmas, None, lambda i, x0, x, n: steps.append([i, n]), True, 1
        )
        (Path(folder_paths.get_output_directory()) / f"{name}.json").write_text(json.dumps(steps))
        return self.report(f"{name}.json")


SEEN = []


class See:
    """Note what each run of this model is told in ``sample_sigmas``, its calls' sigmas, and what records then hold."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "label": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model, label):
        def wrapper(executor, *args, **kwargs):
            options = args[-1] if isinstance(args[-1], dict) else kwargs["transformer_options"]
            told = [round(float(sigma), 4) for sigma in options["sample_sigmas"]]
            sigma = round(float(options["sigmas"].max()), 4)
            SEEN.append({"label": label, "sample_sigmas": told, "sigma": sigma, "records": held()})
            return executor(*args, **kwargs)

        gc.collect()  # the records of earlier runs, such as those that failed
        model = model.clone()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "see", wrapper)
        return (model,)


def held():
    """Return the calls and the bytes that the records of runs hold, what their callers hold besides left out."""
    objects = gc.get_objects()
    kept = {id(item.value) for item in objects if type(item).__name__ == "_Kept"}  # for later runs
    records = [item for item in objects if type(item).__name__ == "Record" and id(item) not in kept]
    storages = {}
    for record in records:
        known = {id(tensor) for tensor in record._known}
        tensors = list(record._start.values())
        for call in record._calls:
            tensors += [call.denoised, *(value for stored in call.post_cfg for value in stored.values())]
        for tensor in tensors:
            if torch.is_tensor(tensor) and id(tensor) not in known:
                assert tensor.device.type == "cpu"
                storages[tensor.data_ptr()] = tensor.nbytes
    return {"calls": sum(len(record._calls) for record in records), "bytes": sum(storages.values())}


class WriteSeen(Dump):
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"name": ("STRING", {})}, "optional": {"after": ("LATENT",)}}
    )  # fmt: skip

    def dump(self, name, after=None):
        (Path(folder_paths.get_output_directory()) / f"{name}.json").write_text(json.dumps(SEEN))
        SEEN.clear()
        return self.report(f"{name}.json")


NODES = (DrawInModel, Noise, Sampler, See, Steps, WriteSeen)
NODE_CLASS_MAPPINGS = {f"WanFLF2VTest{cls.__name__}": cls for cls in NODES}
