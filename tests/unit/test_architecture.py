"""Who may import what, held by reading the imports of every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
# Folder -> other folders of the pack that its files may import.
ARROWS = {
    "nodes": {"sampling", "preflight", "video", "contract", "gateway", "wan", "compat"},
    "sampling": {"wan", "compat"},
    "preflight": {"sampling", "contract", "wan", "compat"},
    "video": {"wan", "compat"},
    "contract": {"wan"},
    "client": {"contract"},
    "cli": {"client", "gateway", "contract"},
    "gateway": {"client", "contract"},
    "benchmarks": {"bootstrap", "client", "contract", "demo", "gateway", "nodes", "video"},
    "bootstrap": set(),
    "demo": {"bootstrap", "cli", "client", "contract"},
}
HOST_MODULES = {
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers", "server",
}  # fmt: skip
MAY_IMPORT_HOST = (
    "benchmarks/encode_counter/",
    "benchmarks/in_host/",
    "compat.py",
    "nodes/",
    "preflight/",
    "sampling/",
    "video/clips.py",
    "video/frames.py",
    "video/vae_",
    "demo/pack/",
    "demo/make_models.py",
    "benchmarks/pack/",
)
NO_TORCH = ("contract", "client", "cli", "gateway", "bootstrap")


def files():
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=REPO, capture_output=True, text=True, check=True)
    return [Path(line) for line in tracked.stdout.splitlines()]


def imports(path):
    """Yield (level, dotted name) of every import of a file; level 0 is absolute, 1 the file's own folder."""
    for node in ast.walk(ast.parse((REPO / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or node.names[0].name


@pytest.mark.parametrize("folder", ARROWS)
def test_folders_import_only_what_they_may(folder):
    own = [path for path in files() if path.parts[0] == folder]
    assert own
    for path in own:
        for level, name in imports(path):
            top = name.split(".")[0]
            if level == len(path.parts):  # from the pack's root
                assert top in ARROWS[folder] | {folder}, f"{path} imports {name}"
            assert level > 0 or top not in {*ARROWS, "wan_flf2v"}, f"{path} imports {name} absolutely"
            if level == 0 and top in HOST_MODULES:
                assert str(path.as_posix()).startswith(MAY_IMPORT_HOST), f"{path} imports {name}"
            assert not (folder in NO_TORCH and top == "torch"), path


def test_run_py_needs_only_the_standard_library():
    for path in [Path("run.py"), *(path for path in files() if path.parts[0] == "bootstrap")]:
        for level, name in imports(path):
            top = name.split(".")[0]
            assert level or top in sys.stdlib_module_names or top in ("_winapi", "bootstrap"), f"{path} imports {name}"


@pytest.mark.parametrize("module", ["wan_flf2v", "wan_flf2v.contract.workflow", "wan_flf2v.cli.run"])
def test_importing_brings_neither_torch_nor_comfyui(module, tmp_path):
    code = f"import sys, {module}; print(sorted({{'torch', 'comfy', 'nodes', 'server', 'av'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
