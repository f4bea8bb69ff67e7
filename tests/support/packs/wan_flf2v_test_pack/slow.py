"""A node that takes its time and one that fails, in ways a real node does."""

import time

import comfy.utils
import torch


class TestSlow:
    """Pass an image on after ``steps`` steps of ``seconds`` each, counting like a sampler."""

    __test__ = False  # not a test class
    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {
            "required": {
                "image": ("IMAGE",),
                "steps": ("INT", {"default": 10, "min": 1, "max": 10000}),
                "seconds": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 60.0}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32}),
            }
        }

    def run(self, image, steps, seconds, seed):
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            time.sleep(seconds)
            bar.update(1)  # raises when the run was interrupted
        return (image,)


class TestFail:
    """Fail as asked: an ordinary error, or one of the two ways memory runs out."""

    __test__ = False
    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"image": ("IMAGE",), "how": (["error", "cpu memory", "gpu memory"],)}}

    def run(self, image, how):
        if how == "cpu memory":
            torch.empty(1 << 60, dtype=torch.uint8)
        if how == "gpu memory":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        raise ValueError("the shift of the low-noise model is 5.0, that of the high-noise model is 8.0")


NODE_CLASS_MAPPINGS = {"WanFLF2VTestSlow": TestSlow, "WanFLF2VTestFail": TestFail}
