"""The registry's archive in a clean ComfyUI, where it is the only pack."""

import json
import urllib.request

import pytest
from support.comfyui_server import Servers
from wan_flf2v.bootstrap.commands import PACK
from wan_flf2v.contract.workflow import graph_names, load_graph


@pytest.fixture(scope="module")
def clean(comfy_install, demo_models, pack_archive, tmp_path_factory):
    with Servers(tmp_path_factory.mktemp("clean"), {PACK: pack_archive}, demo_models).new(comfy_install) as server:
        yield server


def answer(server, path):
    with urllib.request.urlopen(f"{server.url}/{path}", timeout=60) as response:
        return response.read()


def test_it_installs_and_shows_all_it_has(clean):
    assert "IMPORT FAILED" not in clean.log_text()
    known = json.loads(answer(clean, "object_info"))
    own = {
        node["class_type"]
        for name in graph_names()
        for node in load_graph(name).values()
        if node["class_type"].startswith("WanFLF2V")
    }
    assert own <= set(known)
    assert sorted(json.loads(answer(clean, "api/workflow_templates"))[PACK]) == graph_names()
    for node in own:
        assert answer(clean, f"extensions/{PACK}/docs/{node}.md").startswith(b"#")
    assert (clean.base_dir / "user" / "wan_flf2v" / "token").exists(), "the API is mounted"


def test_a_workflow_runs(clean):
    """The dry run needs no model; that the others run with this code, the rest of the tests say."""
    (file,) = clean.run(load_graph("wan22_flf2v_plan")).files
    assert file.filename.endswith(".png")
