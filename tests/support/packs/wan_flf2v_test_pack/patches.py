"""Patches that other packs put on a model, each in its smallest form."""

import comfy.patcher_extension


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
    """Wrap one part of a run; what it returns is scaled. ``sampler_sample`` notes that it ran and changes nothing."""

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
            result = executor(*args, **kwargs)
            if isinstance(result, list):
                return [item * factor for item in result]
            return result if kind in ("outer_sample", "sampler_sample") else result * factor

        model.set_attachments("wrapped", id(wrapper))
        model.add_wrapper_with_key(getattr(comfy.patcher_extension.WrappersMP, kind.upper()), "test", wrapper)
        return (model,)


class MaskFunction:
    """Have a ``denoise_mask_function`` of one's own, which sharpens the mask."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model):
        model = model.clone()
        model.set_model_denoise_mask_function(lambda sigma, mask, extra_options: (mask > 0.25).to(mask.dtype))
        return (model,)


NODES = (MaskFunction, ScaleBlock, Wrap)
NODE_CLASS_MAPPINGS = {f"WanFLF2VTest{cls.__name__}": cls for cls in NODES}
