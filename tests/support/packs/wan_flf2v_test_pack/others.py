"""Nodes of other packs that preflight knows by name, in their smallest form: the GGUF loaders, a helper for VACE."""

from pathlib import Path

import folder_paths

for kind, core in (("unet_gguf", "diffusion_models"), ("clip_gguf", "text_encoders")):
    own = str(Path(folder_paths.models_dir) / kind)  # such a folder can be added in extra_model_paths.yaml
    folder_paths.folder_names_and_paths[kind] = ([*folder_paths.folder_names_and_paths[core][0], own], {".gguf"})


class UnetLoaderGGUF:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"unet_name": (folder_paths.get_filename_list("unet_gguf"),)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "load", "test"


class CLIPLoaderGGUF:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"clip_name": (folder_paths.get_filename_list("clip_gguf"),)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "load", "test"


class WanVideoVACEStartToEndFrame:
    """Makes a control video of the two images and grey frames; it is WanVaceToVideo that makes conditioning of it."""

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"num_frames": ("INT", {"default": 81}), "empty_frame_level": ("FLOAT", {"default": 0.5})},
            "optional": {"start_image": ("IMAGE",), "end_image": ("IMAGE",)},
        }
    )
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE", "MASK"), "process", "test"


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (CLIPLoaderGGUF, UnetLoaderGGUF, WanVideoVACEStartToEndFrame)}
