"""The nodes that load model files, as data: ComfyUI's folders that they look in, and their inputs for file names."""

from __future__ import annotations

from typing import NamedTuple


class Loader(NamedTuple):
    """A node that loads files: ComfyUI's kinds of ``folders`` that it looks in, and its ``inputs`` for their names."""

    folders: tuple[str, ...]
    inputs: tuple[str, ...]


# nodes.py and comfy_extras/nodes_upscale_model.py; the GGUF and KJNodes packs. The GGUF pack lists its files under
# kinds that only it knows. The first kind is also the name of the folder below models/.
LOADERS = {
    "UNETLoader": Loader(("diffusion_models",), ("unet_name",)),
    "UnetLoaderGGUF": Loader(("diffusion_models", "unet_gguf"), ("unet_name",)),
    "DiffusionModelLoaderKJ": Loader(("diffusion_models",), ("model_name",)),
    "CheckpointLoaderSimple": Loader(("checkpoints",), ("ckpt_name",)),
    "CLIPLoader": Loader(("text_encoders",), ("clip_name",)),
    "CLIPLoaderGGUF": Loader(("text_encoders", "clip_gguf"), ("clip_name",)),
    "DualCLIPLoader": Loader(("text_encoders",), ("clip_name1", "clip_name2")),
    "CLIPVisionLoader": Loader(("clip_vision",), ("clip_name",)),
    "VAELoader": Loader(("vae", "vae_approx"), ("vae_name",)),
    "LoraLoader": Loader(("loras",), ("lora_name",)),
    "LoraLoaderModelOnly": Loader(("loras",), ("lora_name",)),
    "UpscaleModelLoader": Loader(("upscale_models",), ("model_name",)),
}


def loaders_with(class_type: str, input_name: str) -> list[Loader]:
    """Return the loader that takes a file name in this input; of a node that is no known loader, all that might be."""
    own = LOADERS.get(class_type)
    return [loader for loader in ([own] if own else LOADERS.values()) if input_name in loader.inputs]
