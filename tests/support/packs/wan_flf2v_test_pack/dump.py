"""Nodes that write what flows through a graph to files, so that tests can compare it bit for bit."""

import json
from pathlib import Path

import folder_paths
import safetensors.torch
import torch


class Dump:
    """Runs every time: the host's cache must not keep a file of another test in place."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "dump", True, "test"
    IS_CHANGED = classmethod(lambda cls, **_: float("nan"))

    def write(self, name, tensors):
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        safetensors.torch.save_file(tensors, Path(folder_paths.get_output_directory()) / f"{name}.safetensors")
        return self.report(f"{name}.safetensors")

    def report(self, filename):
        return {"ui": {"images": [{"filename": filename, "subfolder": "", "type": "output"}]}}


class DumpConditioning(Dump):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"conditioning": ("CONDITIONING",), "name": ("STRING", {})}})

    def dump(self, conditioning, name):
        tensors = {}
        for index, (embedding, options) in enumerate(conditioning):
            tensors[f"{index}.embedding"] = embedding
            for key, value in options.items():
                if torch.is_tensor(value):
                    tensors[f"{index}.{key}"] = value
                elif hasattr(value, "penultimate_hidden_states"):
                    tensors[f"{index}.{key}"] = value.penultimate_hidden_states
        return self.write(name, tensors)


class DumpLatent(Dump):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",), "name": ("STRING", {})}})

    def dump(self, latent, name):
        return self.write(name, {"samples": latent["samples"]})


class DumpModel(Dump):
    """Write what a model carries; ``after`` makes it run once that latent is there."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"model": ("MODEL",), "name": ("STRING", {})},
            "optional": {"after": ("LATENT",)},
        }
    )

    def dump(self, model, name, after=None):
        state = {
            "object_patches": {key: id(value) for key, value in model.object_patches.items()},
            "model_options": repr(model.model_options),
            "patches": sorted(model.patches),
            "shift": float(model.get_model_object("model_sampling").shift),
        }
        (Path(folder_paths.get_output_directory()) / f"{name}.json").write_text(json.dumps(state))
        return self.report(f"{name}.json")


class FakeClipVision:
    """A CLIP vision output of the real shape with seeded values: the encoder itself is not under test."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": ("INT", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP_VISION_OUTPUT",), "make", "test"

    def make(self, seed):
        import comfy.clip_vision

        output = comfy.clip_vision.Output()
        output.penultimate_hidden_states = torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(seed))
        return (output,)


class RandomImages:
    """Seeded frames of any size and channel count."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {key: ("INT", {}) for key in ("seed", "frames", "width", "height", "channels")}}
    )
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "make", "test"

    def make(self, seed, frames, width, height, channels):
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(frames, height, width, channels, generator=generator),)


class RandomLatent:
    """A seeded latent of a Wan VAE."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {key: ("INT", {}) for key in ("seed", "frames", "width", "height")}}
    )
    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "make", "test"

    def make(self, seed, frames, width, height):
        generator = torch.Generator().manual_seed(seed)
        return ({"samples": torch.randn(1, 16, frames, height, width, generator=generator)},)


class EmptyList:
    """A list of latents without any."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES, OUTPUT_IS_LIST, FUNCTION, CATEGORY = ("LATENT",), (True,), "make", "test"

    def make(self):
        return ([],)


class LoadTensorImage:
    """An IMAGE from a safetensors file in the input folder, to the last bit."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"name": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "load", "test"
    IS_CHANGED = classmethod(lambda cls, **_: float("nan"))

    def load(self, name):
        path = Path(folder_paths.get_input_directory()) / f"{name}.safetensors"
        return (safetensors.torch.load_file(path)["image"],)


NODES = (
    *(DumpConditioning, DumpLatent, DumpModel, EmptyList),
    *(FakeClipVision, LoadTensorImage, RandomImages, RandomLatent),
)
NODE_CLASS_MAPPINGS = {f"WanFLF2VTest{cls.__name__}": cls for cls in NODES}
