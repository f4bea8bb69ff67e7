"""What a node's description says that an input takes."""

import pytest
from wan_flf2v.client.offers import choices, is_model_file, read_value


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


FILES = {f"lora_{number}.safetensors": None for number in range(10)}
INPUTS = {
    "required": {
        "steps": ["INT", {"default": 20, "min": 1, "max": 100}],
        "cfg": ["FLOAT", {"min": 0.0, "max": 10.0}],
        "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
        "free": ["FLOAT", {}],
        "on": ["BOOLEAN", {}],
        "text": ["STRING", {"multiline": True}],
        "kind": ["COMBO", {"options": ["euler", "heun"]}],
        "count": [[8, 16], {}],
        "lora": [[*FILES, "high/cat.safetensors"]],
        "image": [["a.png"], {"image_upload": True}],
        "none": [[]],
    },
    "optional": {"model": ["MODEL"]},
}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "4", 4),
        ("steps", "4.0", 4),
        ("steps", "1e2", 100),
        ("seed", str(2**64 - 1), 2**64 - 1),
        ("seed", f" {2**64 - 1} ", 2**64 - 1),
        ("cfg", "1", 1.0),
        ("free", "-1e9", -1e9),
        ("on", "True", True),
        ("text", " a=b ", " a=b "),
        ("kind", "heun", "heun"),
        ("count", "16", 16),
        ("image", "a.png", "a.png"),
        ("image", "wan_flf2v/other.png", "wan_flf2v/other.png"),
    ],
)
def test_a_value_gets_the_inputs_type(name, text, value):
    read = read_value(INPUTS, name, text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("steps", "few", 'must be an integer from 1 to 100, got "few".'),
        ("steps", "4.5", 'must be an integer from 1 to 100, got "4.5".'),
        ("steps", "0", "must be an integer from 1 to 100, got 0. The nearest that it takes is 1."),
        ("steps", "101", "must be an integer from 1 to 100, got 101. The nearest that it takes is 100."),
        ("cfg", "nan", 'must be a number from 0.0 to 10.0, got "nan".'),
        ("free", "inf", 'must be a number, got "inf".'),
        ("free", "9" * 400, f'must be a number, got "{"9" * 400}".'),
        ("on", "yes", 'must be true or false, got "yes".'),
        ("kind", "eular", 'is "eular", which this ComfyUI does not offer. Did you mean euler?'),
        ("kind", "xyz", 'is "xyz", which this ComfyUI does not offer. It has: euler, heun.'),
        (
            "lora",
            "cat.safetensors",
            'is "cat.safetensors", which this ComfyUI does not offer. Did you mean high/cat.safetensors?',
        ),
        ("lora", "xyz", 'is "xyz", which this ComfyUI does not offer. It has: ' + ", ".join(list(FILES)[:8]) + ", …."),
        ("image", "b.png", 'is "b.png", which this ComfyUI does not offer.'),
        ("none", "x", 'is "x", which this ComfyUI does not offer. It has none.'),
        ("model", "x", "takes no value: it comes from another node (MODEL)."),
    ],
)
def test_a_value_that_an_input_does_not_take(name, text, message):
    with pytest.raises(ValueError) as error:
        read_value(INPUTS, name, text)
    assert str(error.value).startswith(message)
