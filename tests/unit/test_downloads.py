"""The table of model files and the workflows say the same."""

import json
import re

import pytest
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.downloads import FILES, VARIANTS, where_to_get
from wan_flf2v.contract.workflow import graph_names, load_graph

BY_NAME = {file.name: file for file in FILES}
UI_FILES = [*(REPO / "workflows").glob("*.json"), *(REPO / "subgraphs").glob("*.json")]
VARIANT_OF = {
    "wan22_flf2v": "fp8",
    "wan22_flf2v_start_image_only": "fp8",
    "wan22_flf2v_upscale": "fp8",
    "wan22_flf2v_several_images": "fp8",
    "wan22_flf2v_loop": "fp8",
    "wan22_flf2v_keyframes": "fp8",
    "wan22_flf2v_long_video": "fp8",
    "wan22_flf2v_4_steps_lora": "lightning",
    "wan22_flf2v_gguf": "gguf",
}
NAMED_NOWHERE = {name for name, variant in VARIANT_OF.items() if variant == "fp8"} - {"wan22_flf2v"}
# Upscale models are a matter of taste: the editor offers one, the command line none.
UPSCALE = ("RealESRGAN_x2.pth", "upscale_models")


def offered(value):
    """Yield every entry of ``properties.models`` below a JSON value."""
    if isinstance(value, dict):
        yield from value.get("models") or ()
        for inside in value.values():
            yield from offered(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from offered(inside)


@pytest.mark.parametrize("path", UI_FILES, ids=lambda path: path.stem)
def test_the_downloads_that_comfyui_offers_are_the_tables(path):
    for model in offered(json.loads(path.read_text(encoding="utf-8"))):
        assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(f"/{model['name']}")
        assert model["name"].endswith((".safetensors", ".pth")), "ComfyUI offers a download of these"
        if (model["name"], model["directory"]) == UPSCALE:
            continue
        file = BY_NAME[model["name"]]
        assert (model["url"], model["directory"]) == (file.url, file.folder)


@pytest.mark.parametrize("name", [name for name in graph_names() if name != "wan22_flf2v_plan"])
def test_a_variant_is_what_its_template_loads(name):
    values = {
        value for node in load_graph(name).values() for value in node["inputs"].values() if isinstance(value, str)
    }
    loaded = {value for value in values if value.endswith((".safetensors", ".gguf"))}
    variant = VARIANTS[VARIANT_OF[name]]
    assert loaded == {file.name for file in variant.files}
    assert re.search(rf"\b{name}\b", variant.use) or name in NAMED_NOWHERE


def test_the_readmes_table_is_fp8():
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    for file in VARIANTS["fp8"].files:
        assert f"| `{file.name}` | `{file.folder}` |" in readme


def test_the_table_is_sane():
    assert len(BY_NAME) == len(FILES)
    for file in FILES:
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.size > 100_000_000


def test_a_file_is_got_with_the_variant_that_has_all_that_the_run_loads():
    names = {name: [file.name for file in variant.files] for name, variant in VARIANTS.items()}

    def variant(name, *others):
        return re.search(r"--variant (\w+)\"", where_to_get(name, {name, *others}))[1]

    assert variant(*names["fp8"]) == "fp8"
    assert variant(names["fp8"][0], names["lightning"][-1]) == "lightning"
    vae = VARIANTS["gguf"].files[-1].name
    assert variant(vae, names["gguf"][0], "own.safetensors") == "gguf"
    assert variant(vae, names["gguf"][0], names["fp8"][0]) == "fp8", "no variant has all of them"
    assert where_to_get("own.gguf", {"own.gguf", *names["gguf"]}) == ""
