"""Patches that other packs put on a model, each in its smallest form."""

import json
from pathlib import Path

import comfy.patcher_extension
import folder_paths


class ScaleBlock:
    """Scale what the first transformer block returns, through ``transformer_options``."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "factor": ("FLOAT", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model, factor):
        def block(args, extra):
            return {**(out := extra["original_block"](args)), "img": out["img"] * factor}

        model = model.clone()
        model.set_model_patch_replace(block, "dit", "double_block", 0)
        return (model,)


class Wrap:
    """Wrap one part of a run; what it returns is scaled, or of ``sampler_sample`` the noise that it begins with."""

    KINDS = ("predict_noise", "outer_sample", "calc_cond_batch", "apply_model", "sampler_sample")
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"model": ("MODEL",), "kind": (cls.KINDS,), "factor": ("FLOAT", {})}}
    )
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model, kind, factor):
        model = model.clone()

        def wrapper(executor, *args, **kwargs):
            if kind == "outer_sample":  # what another pack would look at: this expert's guider, not the other's
                assert executor.class_obj.model_patcher.get_attachment("wrapped") == id(wrapper)
            if kind == "sampler_sample":  # model_wrap, sigmas, extra_args, callback, noise, ...
                args = [*args[:4], args[4] * factor, *args[5:]]
            result = executor(*args, **kwargs)
            if isinstance(result, list):
                return [item * factor for item in result]
            return result if kind in ("outer_sample", "sampler_sample") else result * factor

        model.set_attachments("wrapped", id(wrapper))
        model.add_wrapper_with_key(getattr(comfy.patcher_extension.WrappersMP, kind.upper()), "test", wrapper)
        return (model,)


class FailOnce:
    """Fail at this model's first call after the host started, as when memory runs out; later calls are fine."""

    failed = False
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model):
        def wrapper(executor, *args, **kwargs):
            if not FailOnce.failed:
                FailOnce.failed = True
                raise RuntimeError("failed once")
            return executor(*args, **kwargs)

        model = model.clone()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "test", wrapper)
        return (model,)


class DumpGuider:
    """Write which attributes a guider has ``after`` a run of it."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"guider": ("GUIDER",), "after": ("LATENT",), "name": ("STRING", {})}}
    )
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "dump", True, "test"
    IS_CHANGED = classmethod(lambda cls, **_: float("nan"))

    def dump(self, guider, after, name):
        path = Path(folder_paths.get_output_directory()) / f"{name}.json"
        path.write_text(json.dumps(sorted(vars(guider))))
        return {"ui": {"images": [{"filename": path.name, "subfolder": "", "type": "output"}]}}


class MaskFunction:
    """Have a ``denoise_mask_function`` that sharpens the mask from a step on."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "from_step": ("INT", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model, from_step):
        def sharpen(sigma, mask, extra_options):
            if sigma.max() > extra_options["sigmas"][from_step]:
                return mask
            return (mask > 0.25).to(mask.dtype)

        model = model.clone()
        model.set_model_denoise_mask_function(sharpen)
        return (model,)


class ShortText:
    """Keep the first tokens of a text; to embed all 512 takes 70 % of a forward pass of the demo's model."""

    TOKENS = 16
    INPUT_TYPES = classmethod(lambda cls: {"required": {"conditioning": ("CONDITIONING",)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "cut", "test"

    def cut(self, conditioning):
        return ([[tensor[:, : self.TOKENS].contiguous(), options] for tensor, options in conditioning],)


NODES = (DumpGuider, FailOnce, MaskFunction, ScaleBlock, ShortText, Wrap)
NODE_CLASS_MAPPINGS = {f"WanFLF2VTest{cls.__name__}": cls for cls in NODES}
