"""Preflight at the top of node 57, before any weight goes to the device; and on small disks."""

import contextlib
import json
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from support.in_comfyui import run_cases, run_python
from support.preflight_runs import BIG, FRAMES, HIGH, LOW, SAME, SWAPPED, graph, model_files, other, with_loras
from support.shown import Shown
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.errors import RunFailedError


@pytest.fixture(scope="module")
def models(comfy_server):
    with model_files(comfy_server) as models:
        yield models


def sampled(prompt):
    """Return the graph up to node 57, in one step from an empty latent, with no image and no VAE."""
    del prompt["73"]
    prompt["latent"] = {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": 32, "height": 32, "length": 85, "batch_size": 1},
    }
    prompt["57"]["inputs"].update(positive=["6", 0], negative=["7", 0], latent_image=["latent", 0], steps=1)
    prompt["57"]["inputs"]["noise_seed"] = uuid.uuid4().int % 2**32
    prompt["dump"] = {"class_type": "WanFLF2VTestDumpLatent", "inputs": {"latent": ["57", 0], "name": "preflight"}}
    return prompt


def test_node_57_shows_and_logs_its_warnings(comfy_server, models):
    prompt = with_loras("preflight/huge.safetensors", "high", n57_cfg=4.0, n56_unet_name=HIGH)
    shown = Shown(comfy_server, sampled(prompt)).texts
    text = next(text for node, text in shown if node == "57")
    first, *warnings = text.splitlines()
    assert first == "1 steps: 1 high noise, 0 low noise"
    assert warnings[:3] == [other("model_low_noise", HIGH, "high", "low"), SAME.format(HIGH), warnings[2]]
    assert warnings[2].startswith("steps is 1, but no file's name says")
    assert warnings[3] == FRAMES.format(85)
    assert warnings[4].startswith("The model files need about ")
    assert len(warnings) == 5
    for warning in warnings:
        assert f"notice node=57: {warning}" in comfy_server.log_text()


def test_node_57_knows_one_model_behind_both_inputs(comfy_server, models):
    """A merge hides the files, so only the models themselves can tell."""
    prompt = sampled(graph())
    merge = {"model1": ["54", 0], "model2": ["37", 0], "ratio": 1.0}
    prompt["merge"] = {"class_type": "ModelMergeSimple", "inputs": merge}
    prompt["57"]["inputs"].update(model_high_noise=["merge", 0], model_low_noise=["merge", 0])
    logged = len(comfy_server.log_text())
    comfy_server.run(prompt)
    assert f"notice node=57: {SAME.replace(' ({})', '')}" in comfy_server.log_text()[logged:]


def test_node_57_refuses_swapped_experts_before_it_loads_them(comfy_server, models):
    prompt = sampled(graph(n37_unet_name=LOW, n56_unet_name=HIGH))
    loads = comfy_server.log_text().count("Requested to load WAN21")
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(prompt)
    assert SWAPPED in str(error.value)
    assert comfy_server.log_text().count("Requested to load WAN21") == loads


@pytest.fixture(scope="module")
def cases(comfy_install, tmp_path_factory):
    return run_cases(comfy_install, tmp_path_factory.mktemp("cases"), "preflight_cases")


@pytest.mark.parametrize("case", ["static big.safetensors", "static big.gguf", "dynamic big.gguf"])
def test_what_comfyui_copies_must_fit_into_main_memory(cases, case):
    found = cases[case]
    (warning,) = found["graph"]
    assert warning.startswith(f"The model files need about {BIG / 2**30:.1f} GiB of main memory, but only ")
    assert warning.endswith("Close other programs, or use the GGUF files, which need 22 GiB.")
    assert [text.partition(", but only ")[0] for text in found["plan"]["warnings"]] == [warning.partition(", but")[0]]
    assert found["plan"]["ram"] >= BIG
    assert found["plan"]["mapped"] == 0
    assert "all files chosen;" in found["plan"]["text"]


def test_what_comfyui_maps_needs_no_main_memory(cases):
    """Dynamic memory on NVIDIA: two fp8 experts and their text encoder, 33 GiB, run on a machine with 32."""
    found = cases["dynamic big.safetensors"]
    assert (found["graph"], found["plan"]["warnings"], found["plan"]["ram"]) == ([], [], 0)
    assert found["plan"]["mapped"] > BIG
    assert "0.0 MiB of the files chosen; the other " in found["plan"]["text"]
    assert "are mapped" in found["plan"]["text"]


def test_cfg_pp_samplers_of_other_packs_are_known(cases):
    assert cases["cfg_pp"]["euler"] == [False, None]
    for name in ("euler_cfg_pp", "res_2s_cfgpp"):
        is_cfg_pp, refusal = cases["cfg_pp"][name]
        assert is_cfg_pp
        assert f"cfg_gate is below 1, which skips unconditional predictions, but the sampler {name} needs" in refusal


# Run by the host's Python: ComfyUI's modules and this pack's, without a server.
CHECK_DISKS = """
import importlib.util, json, pathlib, sys
comfyui, pack, *folders = sys.argv[1:]
sys.path.insert(0, comfyui)
sys.argv = ["test", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
checks = importlib.import_module("pack.preflight.checks")
reports = [checks.check_machine(0, pathlib.Path(folder)) for folder in folders]
print(json.dumps([(report.errors, report.warnings) for report in reports]))
"""


@contextlib.contextmanager
def small_disks(folder, sizes):
    """Yield this folder as a mount namespace sees it that has file systems of these sizes at m/<size> in it."""
    mounts = " && ".join(f"mkdir {size} && mount -t tmpfs -o size={size} none {size}" for size in sizes)
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    script = f"mkdir m && cd m && {mounts} && echo done && cat"  # until its standard input is closed
    if shutil.which("unshare") is None:
        pytest.skip("NOT RUN: only Linux's unshare can mount a small file system here")
    with subprocess.Popen(
        [*unshare, "sh", "-c", script], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if not process.stdout.readline():
            pytest.skip("NOT RUN: this machine does not let its users mount a small file system")
        yield Path(f"/proc/{process.pid}/root{folder}")


def test_disks_that_are_nearly_full(comfy_install, tmp_path):
    """Real file systems of those sizes, in a new mount namespace."""
    sizes = ("32m", "512m", "2g")
    folders = [f"m/{size}/not/there/yet" for size in sizes]
    with small_disks(tmp_path, sizes) as cwd:
        printed = run_python(comfy_install, tmp_path, "-c", CHECK_DISKS, comfy_install["path"], REPO, *folders, cwd=cwd)
    assert json.loads(printed.splitlines()[-1]) == [
        [
            [
                "The output folder m/32m/not/there/yet has 32 MiB of free disk space; a video needs at least 64 MiB. "
                "Delete something there, or start ComfyUI with another --output-directory."
            ],
            [],
        ],
        [
            [],
            [
                "The output folder m/512m/not/there/yet has 512 MiB of free disk space, less than 1 GiB: it may fill "
                "up. Delete something there."
            ],
        ],
        [[], []],
    ]
