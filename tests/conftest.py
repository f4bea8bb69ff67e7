"""Real ComfyUI processes for the tests: one for each host version under test, with this pack and tiny models."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from support.comfyui_server import Host
from wan_flf2v.benchmarks._stage import MEASURING_PACKS
from wan_flf2v.bootstrap.lock import setup_lock
from wan_flf2v.bootstrap.paths import REPO, cache_dir
from wan_flf2v.bootstrap.server import ComfyServer, prepare_base_dir
from wan_flf2v.demo.base import PACKS as DEMO_PACKS
from wan_flf2v.demo.base import make_models

HOSTS = json.loads(os.environ.get("WAN_FLF2V_TEST_HOSTS", "null")) or [None]
NEEDS_RUN_PY = "These tests need ComfyUI: run them with `python3 run.py test [pytest arguments]`."
PACKS = {
    **DEMO_PACKS,
    **MEASURING_PACKS,
    "wan-flf2v-test-pack": REPO / "tests" / "support" / "packs" / "wan_flf2v_test_pack",
}


def pytest_collection_modifyitems(items):
    """With several workers: all that needs a ComfyUI of one version goes to one of them, which starts it once."""
    for item in items:
        host = item.callspec.params.get("comfy_install") if hasattr(item, "callspec") else None
        item.add_marker(pytest.mark.xdist_group(host["version"] if host else item.path.stem))


@pytest.fixture(scope="session", params=HOSTS, ids=lambda host: host["version"] if host else "none")
def comfy_install(request):
    """Where a ComfyUI under test lies: ``version``, ``path`` and the ``python`` that runs it."""
    if request.param is None:
        pytest.fail(NEEDS_RUN_PY, pytrace=False)
    return request.param


@pytest.fixture(scope="session")
def project_comfyui():
    """Where the ComfyUI lies that runs in the project's own environment, as the demo's does."""
    if HOSTS == [None]:
        pytest.fail(NEEDS_RUN_PY, pytrace=False)
    paths = [host["path"] for host in HOSTS if host["python"] == sys.executable]
    if not paths:
        pytest.skip("--hosts leaves out the ComfyUI of the project's own environment")
    return paths[0]


@pytest.fixture(scope="session")
def demo_models():
    """The folder of the demo's models, made once by the first host under test; every host must accept them."""
    folder = cache_dir() / "test-models"
    with setup_lock(cache_dir() / "test-models.lock"):
        make_models(Path(HOSTS[0]["path"]), Path(HOSTS[0]["python"]), folder)
    return folder


@pytest.fixture(scope="session")
def new_comfy_server(comfy_install, demo_models, tmp_path_factory):
    """Return a function that starts a ComfyUI of its own, with extra command-line arguments."""

    def start(*extra_args):
        base_dir = tmp_path_factory.mktemp(f"comfy-{comfy_install['version']}-")
        prepare_base_dir(base_dir, PACKS)
        shutil.copytree(demo_models, base_dir / "models", dirs_exist_ok=True)
        for image in (REPO / "demo" / "images").glob("*.jpg"):
            shutil.copy(image, base_dir / "input")
        arguments = ("--cpu", "--disable-api-nodes", *extra_args)
        python, env = Path(comfy_install["python"]), {"OMP_NUM_THREADS": "1"}  # tiny tensors: threads only wait
        server = ComfyServer(Path(comfy_install["path"]), python, base_dir, extra_args=arguments, env=env)
        return Host(server, comfy_install["version"])

    return start


@pytest.fixture(scope="session")
def comfy_server(new_comfy_server):
    """One ComfyUI that the tests share; leave it as it was."""
    with new_comfy_server() as host:
        yield host


@pytest.fixture
def own_comfy_server(new_comfy_server):
    """A ComfyUI of the test's own, which it may kill."""
    with new_comfy_server() as host:
        yield host
