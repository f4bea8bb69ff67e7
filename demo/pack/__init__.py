"""A node pack for the demo's ComfyUI only: a loader for the demo's small UMT5 text encoder.

ComfyUI's own CLIPLoader fixes the sizes of UMT5-XXL, which no demo can download or make; all else is ComfyUI's.
"""

from __future__ import annotations

from typing import Any

import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.wan
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io

# d_model stays UMT5-XXL's, since the host fixes Wan's text_dim at 4096; the rest is as small as the layers allow.
TINY_UMT5 = {"d_ff": 64, "d_kv": 64, "num_heads": 1, "num_layers": 2}


class WanFLF2VDemoCLIPLoader(io.ComfyNode):
    """Load the demo's text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VDemoCLIPLoader",
            display_name="Wan FLF2V Demo Text Encoder",
            category="video/wan flf2v/demo",
            description="The demo's tiny text encoder (random weights). For real videos use Load CLIP.",
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=folder_paths.get_filename_list("text_encoders"),
                    tooltip="A tiny UMT5 made by the demo.",
                )
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("text_encoders", clip_name)
        return io.NodeOutput(load_tiny_umt5(comfy.utils.load_torch_file(path, safe_load=True)))


def load_tiny_umt5(state_dict: dict[str, Any]) -> comfy.sd.CLIP:
    """Return ComfyUI's CLIP for a state dict made by ``demo/make_models.py``."""
    tokenizer = state_dict.pop("spiece_model")
    target = comfy.supported_models_base.ClipTarget(
        comfy.text_encoders.wan.WanT5Tokenizer, comfy.text_encoders.wan.te()
    )
    vocab_size = state_dict["shared.weight"].shape[0]
    return comfy.sd.CLIP(
        target,
        tokenizer_data={"spiece_model": tokenizer},
        state_dict=[state_dict],
        model_options={"model_name": "umt5xxl", "umt5xxl_model_config": {**TINY_UMT5, "vocab_size": vocab_size}},
    )


class WanFLF2VDemoExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [WanFLF2VDemoCLIPLoader]


async def comfy_entrypoint() -> WanFLF2VDemoExtension:
    """Return the extension; ComfyUI calls this once at start-up."""
    return WanFLF2VDemoExtension()
