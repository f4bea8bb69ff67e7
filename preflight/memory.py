"""The memory estimate for the device, besides the weights, as ComfyUI makes it."""

from __future__ import annotations

import comfy.model_detection
import comfy.model_management
import comfy.utils
import torch

from .model_files import ModelFile

# safetensors' names of the dtypes that a diffusion model's weights have; ComfyUI counts no others.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def activation_bytes(file: ModelFile, latent_shape: tuple[int, ...]) -> int | None:
    """Return the bytes that this ComfyUI must have besides the weights, by its own estimate for its own device.

    ComfyUI builds the model on the meta device, which holds no data. It is asked for its ``memory_required`` of one
    prediction: that is ``minimum_memory_required`` in comfy/sampler_helpers.py. With guidance, ComfyUI would like to
    have twice that. It computes both predictions at once only if there is room, else one after the other.

    Args:
        file: a diffusion model.
        latent_shape: [batch, channels, latent frames, height / 8, width / 8].

    Returns:
        Bytes, or None if the header is not that of a Wan model that this ComfyUI knows.
    """
    if file.wan is None or file.tensors is None:
        return None
    prefix = file.wan_prefix or ""
    weights = {
        key[len(prefix) :]: torch.empty(tensor.shape, dtype=_DTYPES.get(tensor.dtype, torch.uint8), device="meta")
        for key, tensor in file.tensors.items()
        if key.startswith(prefix)
    }
    unet_config = comfy.model_detection.detect_unet_config(weights, "")
    config = comfy.model_detection.model_config_from_unet_config(unet_config, weights)
    if config is None:
        return None
    _set_dtypes(config, weights)
    model = config.get_model(weights, "", device=torch.device("meta"))
    return int(model.memory_required(list(latent_shape)))


def device_name() -> str:
    """Return torch's name of the device that models run on here: ``"cuda:0"``, ``"cpu"``."""
    return str(comfy.model_management.get_torch_device())


def _set_dtypes(config: object, weights: dict[str, torch.Tensor]) -> None:
    """Choose storage and computation dtypes as comfy/sd.py's load_diffusion_model_state_dict does."""
    supported = list(config.supported_inference_dtypes)
    # scaled_fp8 is the older mark of a quantised file; ComfyUI turns it into the newer one while it loads
    quantised = any(key == "scaled_fp8" or key.endswith(".comfy_quant") for key in weights)
    if quantised:
        config.quant_config = {"mixed_ops": True}
    weight_dtype = None if quantised else comfy.utils.weight_dtype(weights)
    parameters = comfy.utils.calculate_parameters(weights)
    storage = comfy.model_management.unet_dtype(
        model_params=parameters, supported_dtypes=supported, weight_dtype=weight_dtype
    )
    computation = comfy.model_management.unet_manual_cast(
        None if quantised else storage, comfy.model_management.get_torch_device(), supported
    )
    config.set_inference_dtype(storage, computation)
