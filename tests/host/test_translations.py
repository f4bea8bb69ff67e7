"""Translations: what the editor shows of the nodes exists in every language, and nothing is left over."""

import json
import re
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
LANGUAGES = ("ja", "ko", "zh")  # English is in the nodes themselves
HELP = REPO / "web" / "docs"
HEADINGS = {
    "Inputs": {"ja": "入力", "ko": "입력", "zh": "输入"},
    "Example": {"ja": "例", "ko": "예", "zh": "示例"},
    "Outputs": {"ja": "出力", "ko": "출력", "zh": "输出"},
    "Output": {"ja": "出力", "ko": "출력", "zh": "输出"},
}
# Inputs that are there only where ComfyUI has the node named here. Their translations are always there.
NEED_A_NODE = {("WanFLF2VVideoCombine", "interp_model"): "FrameInterpolate"}


def get(server, path):
    with urllib.request.urlopen(f"{server.url}/{path}", timeout=60) as response:
        return json.load(response)


@pytest.fixture
def info(comfy_server):
    """All nodes as this ComfyUI tells of them."""
    return get(comfy_server, "object_info")


@pytest.fixture
def nodes(info):
    """The pack's."""
    return {name: node for name, node in info.items() if node["python_module"] == "custom_nodes.wan-flf2v"}


def english(node):
    """Return a node's texts in the form of nodeDefs.json; inputs and outputs are called as they are."""
    inputs = {name: spec[1]["tooltip"] for part in node["input"].values() for name, spec in part.items() if spec[1:]}
    hidden = node["input"].get("hidden", {})
    outputs = dict(enumerate(zip(node["output_name"], node["output_tooltips"], strict=True)))
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {name: {"name": name, "tooltip": text} for name, text in inputs.items() if name not in hidden},
        "outputs": {str(number): {"name": name, "tooltip": text} for number, (name, text) in outputs.items()},
    }


def shape(texts):
    return {key: shape(value) if isinstance(value, dict) else str for key, value in texts.items()}


def test_the_languages_are_these():
    assert sorted(path.name for path in (REPO / "locales").iterdir()) == list(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_every_node_is_translated(comfy_server, info, nodes, language):
    """As ComfyUI serves them; a text that was changed in English only is not seen here."""
    expected = {name: english(node) for name, node in nodes.items()}
    translated = get(comfy_server, "i18n")[language]["nodeDefs"]
    own = {name: translated[name] for name in translated if name.startswith("WanFLF2V") and "Demo" not in name}
    for (name, key), needed in NEED_A_NODE.items():
        if needed not in info:
            del own[name]["inputs"][key]
    assert shape(own) == shape(expected)
    for name, texts in own.items():
        assert texts["description"] != expected[name]["description"]
        for place in ("inputs", "outputs"):
            for key, text in texts[place].items():
                assert text["name"] and text["tooltip"].strip()
                assert text["tooltip"] != expected[name][place][key]["tooltip"], (name, key)


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_every_node_has_a_help_page_with_a_picture_and_an_example(nodes, language):
    pages = {path.stem: path for path in HELP.glob("*.md")}
    if language != "en":
        pages = {path.parent.name: path for path in HELP.glob(f"*/{language}.md")}
    assert pages.keys() == nodes.keys()
    for name, path in pages.items():
        text = path.read_text("utf-8")
        for key in english(nodes[name])["inputs"]:
            assert re.search(rf"\b{key}\b", text), f"{path}: {key}"
        assert HEADINGS["Example"].get(language, "Example") in headings(text)
        (picture,) = re.findall(r"!\[.+\]\((.+)\)", text)
        assert (HELP / picture).is_file()


def headings(text):
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def outline(text):
    """Return what a page is made of: headings, pictures, rows of tables, items of lists, code, and paragraphs."""
    kinds = [""]
    for line in text.splitlines():
        mark = re.match(r"#+ |!\[|\||```| *- ", line)
        kinds.append(
            mark[0] if mark else "paragraph" if line[:1].strip() else ""
        )  # "" is blank, or goes on with an item
    return [kind for before, kind in pairwise(kinds) if kind and not before == kind == "paragraph"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("page", sorted(path.stem for path in HELP.glob("*.md")))
def test_a_translated_help_page_has_all_that_the_english_one_has(page, language):
    original, translated = ((HELP / path).read_text("utf-8") for path in (f"{page}.md", f"{page}/{language}.md"))
    assert outline(translated) == outline(original)
    for heading, other in zip(headings(original), headings(translated), strict=True):
        assert other == HEADINGS.get(heading, {}).get(language, other)


def test_no_help_page_is_left_over(nodes):
    expected = {f"{name}{suffix}" for name in nodes for suffix in (".md", ".jpg")}
    expected |= {f"{name}/{language}.md" for name in nodes for language in LANGUAGES}
    assert {path.relative_to(HELP).as_posix() for path in HELP.rglob("*") if path.is_file()} == expected
