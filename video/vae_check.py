"""Decides whether a VAE may be streamed (decode) and memoised (encode): is it ComfyUI's own Wan 2.1 VAE, unpatched?"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import comfy.ldm.wan.vae
import comfy.model_management
import comfy.sd
import torch

from .. import compat
from .chunks import chunk_bounds, chunk_count, decode_chunks
from .memo import MemoisedEncoder

# Long enough for layers to be reused and for a frame to be kept at the end; one latent pixel more than a patch of two.
_CHECK_FRAMES, CHECK_PIXELS = 29, 24
# Where ComfyUI's ModelPatcher keeps all changes but those of weights (comfy/model_patcher.py).
_CODE_PATCHES = ("object_patches", "weight_wrapper_patches", "hook_patches", "forced_hooks")

_wan = comfy.ldm.wan.vae
# The functions that the chunked encode and decode replace, with the arguments they must have. A newer ComfyUI may have
# added others that can be left out: that the bits are the same is what the self-checks are for.
_REPLACED: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (comfy.sd.VAE, "encode", ("self", "pixel_samples")),
    (comfy.sd.VAE, "decode", ("self", "samples_in", "vae_options")),
    (_wan.WanVAE, "encode", ("self", "x")),
    (_wan.WanVAE, "decode", ("self", "z")),
    (_wan.Encoder3d, "forward", ("self", "x", "feat_cache", "feat_idx", "final")),
    (_wan.Decoder3d, "forward", ("self", "x", "feat_cache", "feat_idx")),
)

_LOG = logging.getLogger("wan_flf2v.video")

_checked: WeakKeyDictionary[torch.nn.Module, dict[tuple, bool]] = WeakKeyDictionary()


def why_not_chunked(vae: Any) -> str | None:
    """Say why ComfyUI's own encode and decode must be used for this VAE; None if the self-checks may be tried."""
    try:
        return _difference(vae)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is not the VAE that is known here
        return f"it cannot be examined, {type(error).__name__}: {error}"


def _difference(vae: Any) -> str | None:
    if type(vae) is not comfy.sd.VAE or vars(vae).keys() & {"encode", "decode"}:
        return "it is not the VAE object of ComfyUI"
    model = vae.first_stage_model
    if type(model) is not _wan.WanVAE:
        return f"its class is {type(model).__module__}.{type(model).__name__}, not {_wan.__name__}.WanVAE"
    for cls, name, parameters in _REPLACED:
        function = getattr(cls, name)
        code = getattr(function, "__code__", None)
        if getattr(code, "co_filename", None) != sys.modules[cls.__module__].__file__:
            return f"{cls.__name__}.{name} was replaced by another pack"
        if not _takes(function, parameters):
            return f"{cls.__name__}.{name} has other arguments than expected"
    channels = (vae.output_channels, vae.conv_out_channels)  # of the encoder's pixels and of the decoder's
    if vae.latent_dim != 3 or channels != (3, 3) or getattr(vae, "format_encoded", None) is not None:
        return "its channels are not those of Wan 2.1"
    codes = torch.tensor([0.0, 0.5, 1.0])
    if vae.process_input(codes).tolist() != [-1, 0, 1] or vae.process_output(codes * 2 - 1).tolist() != [0, 0.5, 1]:
        return "its value range was changed"
    if any(getattr(vae.patcher, kind, None) for kind in _CODE_PATCHES) or any(map(_is_hooked, model.modules())):
        return "its code is patched"
    if vae.patcher.patches:
        return "its weights are patched"
    return None


@contextlib.contextmanager
def loaded(vae: Any, memory: float) -> Iterator[None]:
    """Bring the VAE to its device with ``memory`` bytes free beside it, as ComfyUI's encode and decode do."""
    with compat.device_context(vae.device):
        comfy.model_management.load_models_gpu(
            [vae.patcher], memory_required=memory, force_full_load=vae.disable_offload
        )
        yield


def encodes_alike(vae: Any) -> bool:
    """Whether the memoised encode of a tiny video equals ComfyUI's. The VAE must be ``loaded``; the result is kept."""

    def check(model: torch.nn.Module) -> bool:
        video = torch.zeros(1, 3, _CHECK_FRAMES, CHECK_PIXELS, CHECK_PIXELS)
        video[:, :, (0, 1, -1)] = _noise(1, 3, 3, CHECK_PIXELS, CHECK_PIXELS)
        video = video.to(vae.device, vae.vae_dtype)

        def chunk(i: int) -> torch.Tensor:
            first, end = chunk_bounds(i)
            return video[:, :, first:end]

        return torch.equal(MemoisedEncoder(model).encode(chunk, chunk_count(_CHECK_FRAMES)), model.encode(video))

    return _once(vae, "encode", check)


def decodes_alike(vae: Any) -> bool:
    """Whether the chunked decode of a tiny latent equals ComfyUI's. The VAE must be ``loaded``; the result is kept."""

    def check(model: torch.nn.Module) -> bool:
        latent, place = _noise(1, vae.latent_channels, 4, 3, 3), (vae.device, vae.vae_dtype)
        return torch.equal(torch.cat(list(decode_chunks(model, latent, *place)), 2), model.decode(latent.to(*place)))

    return _once(vae, "decode", check)


def _once(vae: Any, what: str, check: Callable[[torch.nn.Module], bool]) -> bool:
    model = vae.first_stage_model
    results = _checked.setdefault(model, {})
    key = (what, vae.device, vae.vae_dtype, repr(model))
    if key not in results:
        try:
            results[key] = check(model)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:  # noqa: BLE001 -- another layout, or what a pack's layer raises
            _LOG.warning("self-check failed check=%s: %s: %s", what, type(error).__name__, error)
            if comfy.model_management.is_oom(error):  # says nothing about the VAE: checked again next time
                return False
            results[key] = False
    return results[key]


def _takes(function: Callable[..., Any], names: tuple[str, ...]) -> bool:
    """Whether the function's arguments begin with these, and all others may be left out."""
    parameters = list(inspect.signature(function).parameters.values())
    known, others = parameters[: len(names)], parameters[len(names) :]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(parameter.name for parameter in known) == names and all(
        parameter.default is not parameter.empty or parameter.kind in variable for parameter in others
    )


def _is_hooked(module: torch.nn.Module) -> bool:
    replaced = any(callable(getattr(type(module), name, None)) for name in vars(module))
    return replaced or bool(module._forward_hooks or module._forward_pre_hooks)


def _noise(*shape: int) -> torch.Tensor:
    """Return noise in -1...1, without torch's global generator."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
