"""The client and the contract install without a GPU stack, and only look in the allowed direction."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
ALLOWED = {"contract": {"contract"}, "client": {"client", "contract"}}


def test_importing_the_client_loads_neither_torch_nor_comfy(tmp_path):
    code = (
        "import sys, wan_flf2v.client.cli, wan_flf2v.contract.validation;"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert {"wan_flf2v", "aiohttp", "pydantic"} <= loaded
    assert not loaded & {"torch", "comfy", "comfy_api", "nodes", "folder_paths", "numpy", "av"}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_inside_the_package_follow_the_arrows(package):
    for path in (REPO / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                assert node.module.partition(".")[0] in ALLOWED[package], f"{path.name} imports ..{node.module}"
            if isinstance(node, ast.ImportFrom) and node.level > 2:
                pytest.fail(f"{path.name} reaches outside the package")
