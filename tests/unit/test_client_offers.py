"""What a node's description says that an input takes."""

import pytest
from wan_flf2v.client.offers import choices, is_model_file


@pytest.mark.parametrize(
    ("inputs", "listed"),
    [
        ({"required": {"unet_name": [["a.safetensors", "b.gguf"]]}}, ["a.safetensors", "b.gguf"]),
        ({"required": {"unet_name": (["a.safetensors"], {"tooltip": "x"})}}, ["a.safetensors"]),
        ({"required": {"unet_name": ["COMBO", {"options": ["a.safetensors", 3]}]}}, ["a.safetensors", "3"]),
        ({"required": {}, "optional": {"unet_name": [["a.safetensors"]]}}, ["a.safetensors"]),
        ({"required": {"unet_name": [[]]}}, []),
        ({"required": {"unet_name": ["COMBO", {"remote": {"route": "/models"}}]}}, None),
        ({"required": {"unet_name": ["COMBO"]}}, None),
        ({"required": {"unet_name": ["STRING", {"default": "a.safetensors"}]}}, None),
        ({"required": {"other": [["a.safetensors"]]}, "optional": None}, None),
        ({}, None),
    ],
)
def test_the_choices_of_an_input(inputs, listed):
    assert choices(inputs, "unet_name") == listed


@pytest.mark.parametrize(
    ("text", "is_file"), [("a/b.safetensors", True), ("A.GGUF", True), ("pixel_space", False), ("taesd", False)]
)
def test_names_of_model_files(text, is_file):
    assert is_model_file(text) == is_file
