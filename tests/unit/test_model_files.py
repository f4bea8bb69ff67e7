"""What a model file's header and name tell."""

import struct

import numpy
import pytest
from safetensors.numpy import save_file
from support.wan_files import wan_tensors, write_sparse, write_tensors, write_wan
from wan_flf2v.preflight.model_files import WAN_14B, WanShape, expert_of, is_distilled, read_file


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
    assert file.wan == WanShape(128, 256, 3, in_channels, 16, 64)
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


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", "high"),
        ("Wan2.2-I2V-A14B-LowNoise-Q4_K_M.gguf", "low"),
        ("wan/low/Wan22_I2V_HIGH.safetensors", "high"),
        ("wan\\high\\wan22-low-noise.safetensors", "low"),
        ("wan2.1_flf2v_720p_14B_fp16.safetensors", None),
        ("wan_low_vram_14B.safetensors", None),
        ("wan_highres.safetensors", None),
        ("wan_high_quality.safetensors", None),
        ("wan_high_low_merge.safetensors", None),
        ("yellow.safetensors", None),
    ],
)
def test_experts_by_name(name, expert):
    assert expert_of(name) == expert


@pytest.mark.parametrize(
    ("name", "distilled"),
    [
        ("wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors", True),
        ("Wan2.2-Lightning_I2V-A14B-4steps.safetensors", True),
        ("wan_StepDistill_cfg.safetensors", True),
        ("wan_8-step.safetensors", True),
        ("my_style_2000steps.safetensors", False),
        ("my_style_12steps.safetensors", False),
        ("lightning/wan2.2_i2v_high_noise_14B.safetensors", False),
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", False),
    ],
)
def test_few_step_files_by_name(name, distilled):
    assert is_distilled(name) == distilled


def test_bits_of_small_dtypes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": numpy.zeros((3, 5), numpy.int64), "b": numpy.zeros(7, numpy.uint8)}, path)
    assert read_file(path).bytes_by_dtype == {"I64": 120, "U8": 7}
