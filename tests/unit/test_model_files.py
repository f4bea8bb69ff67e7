"""What a model file's header and name tell."""

import struct

import numpy
import pytest
from safetensors.numpy import save_file
from support.wan_files import wan_tensors, write_sparse, write_tensors, write_wan
from wan_flf2v.preflight.model_files import WAN_14B, WanShape, expert_of, is_distilled, read_file, read_titles


@pytest.mark.parametrize(
    ("width", "height", "frames", "tflop"),
    [(480, 480, 81, 755), (720, 720, 81, 2518), (1280, 720, 81, 6523), (1280, 720, 141, 16915)],
)
def test_operations_of_a_forward_pass(width, height, frames, tflop):
    """The figures were worked out apart from the code; they round what lies outside the layers differently."""
    tokens = ((frames - 1) // 4 + 1) * (width // 16) * (height // 16)
    assert WAN_14B.forward_tflop(tokens) == pytest.approx(tflop, abs=1)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(("in_channels", "image_channels"), [(36, 20), (16, 0)])
def test_the_dimensions_are_read_from_the_shapes(tmp_path, prefix, in_channels, image_channels):
    file = read_file(write_wan(tmp_path / "x.safetensors", in_channels=in_channels, layers=3, prefix=prefix))
    assert file.wan == WanShape(128, 256, 3, in_channels, 16)
    assert file.wan.image_channels == image_channels
    weights = sum(value.nbytes for value in wan_tensors(in_channels=in_channels, layers=3).values())
    assert file.bytes_by_dtype == {"F16": weights}
    assert file.weight_bytes == weights < file.size == (tmp_path / "x.safetensors").stat().st_size


def test_other_files_are_no_wan_model(tmp_path):
    file = read_file(write_tensors(tmp_path / "vae.safetensors", weight=[1.0, 2.0]))
    assert (file.wan, file.bytes_by_dtype) == (None, {"F32": 8})
    partly = {name: value for name, value in wan_tensors().items() if not name.startswith("blocks")}
    assert read_file(write_tensors(tmp_path / "part.safetensors", **partly)).wan is None
    (tmp_path / "q4.gguf").write_bytes(b"GGUF" + bytes(96))
    file = read_file(tmp_path / "q4.gguf")
    assert (file.wan, file.tensors, file.bytes_by_dtype, file.weight_bytes) == (None, None, {}, 100)


def test_a_header_is_all_that_is_read(tmp_path):
    """4 TiB: reading any of it would be noticed."""
    file = read_file(write_sparse(tmp_path / "huge.safetensors", 4 << 40))
    assert file.bytes_by_dtype == {"U8": 4 << 40}


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def no_header(path):
    path.write_bytes(b"<!DOCTYPE html><html>Please log in</html>")


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


@pytest.mark.parametrize("spoil", [cut, no_header, huge_header])
def test_a_broken_file_is_said(tmp_path, spoil):
    path = write_wan(tmp_path / "wan.safetensors")
    spoil(path)
    with pytest.raises(
        ValueError, match=r"wan\.safetensors is not a whole safetensors file \(.+\)\. The download"
    ) as info:
        read_file(path)
    assert f"It has {path.stat().st_size:,} bytes now." in str(info.value)


SEKO = "Wan2.2-Lightning/Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1"  # the official repository's layout


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "high"),
        ("Wan2.2-I2V-A14B-LowNoise-Q4_K_M.gguf", "low"),
        ("Wan2_2-I2V-A14B-HIGH_fp8_e4m3fn_scaled_KJ.safetensors", "high"),
        ("Wan22_A14B_T2V_LOW_Lightning_4steps_lora_rank128_fp16.safetensors", "low"),
        (f"{SEKO}/high_noise_model.safetensors", "high"),
        (f"{SEKO}/low_noise_model.safetensors", "low"),
        ("my_style_high.safetensors", "high"),
        ("my_style_LOW_v2.safetensors", "low"),
        ("my_style-high-000000150.safetensors", "high"),
        ("my_style_low_rank64.safetensors", "low"),
        ("wan/low/Wan22_I2V_HIGH.safetensors", "high"),
        ("wan\\high\\wan22-low-noise.safetensors", "low"),
        ("low_noise/my_style.safetensors", "low"),
        ("high_noise/loras/low/my_style.safetensors", "low"),
        ("low_light/my_style_high_noise.safetensors", "high"),
        ("low_light_high_noise.safetensors", "high"),
        ("wan2.1_flf2v_720p_14B_fp16.safetensors", None),
        ("wan_low_light.safetensors", None),
        ("wan-high-angle-v1.safetensors", None),
        ("HighAngleShot.safetensors", None),
        ("wan_low_vram_14B.safetensors", None),
        ("wan_highres.safetensors", None),
        ("wan_high_quality.safetensors", None),
        ("low_poly_high_contrast.safetensors", None),
        ("high_heels.safetensors", None),
        ("wan_high_low_merge.safetensors", None),
        ("wan_high_noise_low_noise.safetensors", None),
        ("yellow.safetensors", None),
        ("slowmotion_v2.safetensors", None),
    ],
)
def test_experts_by_name(name, expert):
    assert expert_of(name) == expert


@pytest.mark.parametrize(
    ("name", "distilled"),
    [
        ("wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors", True),
        ("Wan2.2-Lightning_I2V-A14B-4steps.safetensors", True),
        (f"{SEKO}/high_noise_model.safetensors", True),
        ("Wan2.2-I2V-A14B-4steps-lora-rank64\\low_noise_model.safetensors", True),
        ("lightning/wan2.2_i2v_high_noise_14B.safetensors", True),
        ("Wan2.2-T2V-A14B-4steps-250928.safetensors", True),
        ("wan_StepDistill_cfg.safetensors", True),
        ("Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors", True),
        ("wan_8-step.safetensors", True),
        ("Wan2_2-I2V-A14B_LightX2V.safetensors", True),
        ("Wan2_2_I2V_rCM_high_noise.safetensors", True),
        ("wan_rcm_merged.safetensors", True),
        ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", True),
        ("wan_causvid.safetensors", True),
        ("Wan21_AccVid_I2V_480P_14B_lora_rank32_fp16.safetensors", True),
        ("accvideo_i2v.safetensors", True),
        ("FastWanFullAttn_lora.safetensors", True),
        ("Wan2_2-TI2V-5B-FastWan.safetensors", True),
        ("wan_self_forcing_dmd.safetensors", True),
        ("wan_lora_epoch_8_step_200.safetensors", False),
        ("epoch_8_steps.safetensors", False),
        ("wan_lora_step_200_epoch_8.safetensors", False),
        ("my_style_e8_steps_2000.safetensors", False),
        ("my_style_2000steps.safetensors", False),
        ("my_style_12steps.safetensors", False),
        ("wan_undistilled.safetensors", False),
        ("wan_non-distilled.safetensors", False),
        ("footsteps.safetensors", False),
        ("breakfast_wanderer.safetensors", False),
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", False),
    ],
)
def test_few_step_files_by_name(name, distilled):
    assert is_distilled(name) == distilled


@pytest.mark.parametrize(
    ("metadata", "expert", "distilled"),
    [
        ({"modelspec.title": "Wan 2.2 Lightning, high noise"}, "high", True),
        ({"ss_output_name": "style_low_noise"}, "low", False),
        ({"name": "my_style_HIGH"}, "high", False),
        ({"modelspec.tags": "wan, 4-step"}, None, True),
        # a style's description tells what it goes well with, and a trainer's count is no number of steps
        ({"modelspec.description": "works with lightx2v 4steps", "ss_steps": "8"}, None, False),
        ({"format": "pt"}, None, False),
        (None, None, False),
    ],
)
def test_a_renamed_file_is_known_by_its_metadata(tmp_path, metadata, expert, distilled):
    path = tmp_path / "renamed.safetensors"
    save_file({"a": numpy.zeros(2, numpy.float16)}, path, metadata)
    titles = read_titles(path)
    assert (expert_of(path.name, titles), is_distilled(path.name, titles)) == (expert, distilled)
    assert expert_of("low_noise.safetensors", titles) == "low", "its own name counts most"


def test_a_file_that_cannot_be_read_has_no_titles(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    assert read_titles(tmp_path / "broken.safetensors") == read_titles(tmp_path / "none.safetensors") == ()


def test_bits_of_small_dtypes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": numpy.zeros((3, 5), numpy.int64), "b": numpy.zeros(7, numpy.uint8)}, path)
    assert read_file(path).bytes_by_dtype == {"I64": 120, "U8": 7}
