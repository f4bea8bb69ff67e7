"""The model files that the workflows load, as data: where they are on the Hugging Face hub, their size and SHA-256."""

from __future__ import annotations

from dataclasses import dataclass

HUB = "https://huggingface.co"
WAN_22, WAN_21 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged", "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
GGUF = "QuantStack/Wan2.2-I2V-A14B-GGUF"


@dataclass(frozen=True)
class ModelFile:
    """One file: ``repo`` and ``path`` on the hub, and the ``folder`` below ComfyUI's models that it belongs in.

    ``size`` is in bytes. ``sha256`` is ``None`` where none could be looked up; such a size may be rounded, and the hub
    is asked for both.
    """

    repo: str
    path: str
    folder: str
    size: int
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name, as loaders list it."""
        return self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        """The address, in the form from which ComfyUI offers downloads."""
        return f"{HUB}/{self.repo}/resolve/main/{self.path}"


def _comfy(name: str, folder: str, size: int, sha256: str | None = None, repo: str = WAN_22) -> ModelFile:
    return ModelFile(repo, f"split_files/{folder}/{name}", folder, size, sha256)


VAE = _comfy(
    "wan_2.1_vae.safetensors",
    "vae",
    253_815_318,
    "2fc39d31359a4b0a64f55876d8ff7fa8d780956ae2cb13463b0223e15148976b",
)
_FP8 = (
    _comfy(
        "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors",
        "diffusion_models",
        14_294_742_832,
        "6122e79d55e0f235698d11d657f3b196c5273c830da00b2b013c5a048d5e6a42",
    ),
    _comfy(
        "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors",
        "diffusion_models",
        14_294_742_832,
        "5471a457b6ac404202a5fbe6c11595a3d5641fc766b00f38763f72303fffc21e",
    ),
    _comfy(
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        "text_encoders",
        6_735_906_897,
        "c3355d30191f1f066b26d93fba017ae9809dce6c627dda5f6a66eaa651204f68",
        WAN_21,
    ),
    VAE,
)
_FP16 = (
    _comfy("wan2.2_i2v_high_noise_14B_fp16.safetensors", "diffusion_models", 28_600_000_000),
    _comfy("wan2.2_i2v_low_noise_14B_fp16.safetensors", "diffusion_models", 28_600_000_000),
    _comfy(
        "umt5_xxl_fp16.safetensors",
        "text_encoders",
        11_366_399_385,
        "7b8850f1961e1cf8a77cca4c964a358d303f490833c6c087d0cff4b2f99db2af",
        WAN_21,
    ),
    VAE,
)
LORAS = (
    _comfy(
        "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors",
        "loras",
        1_226_977_424,
        "d176c808d6fc461999b68e321efcb7501b20b8c3797523ed0df14f7d1deff11e",
    ),
    _comfy(
        "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors",
        "loras",
        1_226_977_424,
        "024f21de095bc8fad9809ded3e9e49a2e170dcf27075da8145ba7d60d8aab7f9",
    ),
)
_GGUF = (
    ModelFile(GGUF, "HighNoise/Wan2.2-I2V-A14B-HighNoise-Q4_K_M.gguf", "diffusion_models", 9_651_728_896),
    ModelFile(GGUF, "LowNoise/Wan2.2-I2V-A14B-LowNoise-Q4_K_M.gguf", "diffusion_models", 9_651_728_896),
    ModelFile("city96/umt5-xxl-encoder-gguf", "umt5-xxl-encoder-Q5_K_M.gguf", "text_encoders", 4_145_878_880),
    VAE,
)


@dataclass(frozen=True)
class Variant:
    """A set of files that makes a workflow run, and what to do with them then."""

    files: tuple[ModelFile, ...]
    use: str


VARIANTS = {
    "fp8": Variant(_FP8, "open the template wan22_flf2v"),
    "fp16": Variant(_FP16, "open the template wan22_flf2v and choose these files in its loaders"),
    "lightning": Variant((*_FP8, *LORAS), "open the template wan22_flf2v_4_steps_lora"),
    "gguf": Variant(_GGUF, "open the template wan22_flf2v_gguf; it needs the pack ComfyUI-GGUF"),
}
FILES = tuple(dict.fromkeys(file for variant in VARIANTS.values() for file in variant.files))


def where_to_get(name: str, names: set[str]) -> str:
    """Return a sentence on where to get the file ``name``, with a space before it; nothing if no variant has it.

    ``names`` are all files that the same run loads: they tell which variant it is.
    """
    file = next((file for file in FILES if file.name == name), None)
    if file is None:
        return ""
    known = {file.name for file in FILES} & names
    fitting = (variant for wanted in (known, {name}) for variant in VARIANTS if wanted <= _names(variant))
    command = f"wan-flf2v models download --variant {next(fitting)}"
    return f' "{command}" on ComfyUI\'s machine gets it from {HUB}/{file.repo}.'


def _names(variant: str) -> set[str]:
    return {file.name for file in VARIANTS[variant].files}
