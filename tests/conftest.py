"""ComfyUI and gateway processes for the tests, and how the tests are shared out to the workers of pytest-xdist."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.archive import archive_files, copy_files
from support.comfyui_server import Servers, WarmStarts
from support.gateway_process import NOWHERE, Gateway
from support.in_comfyui import run_python
from support.stores import CHOSEN
from support.warm_python import Programs, WarmPython
from wan_flf2v.benchmarks._stage import MEASURING_PACKS
from wan_flf2v.bootstrap import server
from wan_flf2v.bootstrap.commands import PACK
from wan_flf2v.bootstrap.lock import setup_lock
from wan_flf2v.bootstrap.paths import REPO, cache_dir
from wan_flf2v.demo.base import PACKS as DEMO_PACKS
from wan_flf2v.demo.base import copy_trained_models

HOSTS = json.loads(os.environ.get("WAN_FLF2V_TEST_HOSTS", "null")) or [None]
NEWEST = max(HOSTS, key=lambda install: [int(number) for number in install["version"].split(".")] if install else [])
WARM = "WAN_FLF2V_TEST_WARM"  # the variable that tells the workers where the warm Pythons are
NO_LIMITS = {"queue_limit": 10_000, "rate_per_minute": 1_000_000}
NEEDS_RUN_PY = "These tests need ComfyUI: run them with `python3 run.py test [pytest arguments]`."
PACKS = {
    **DEMO_PACKS,
    **MEASURING_PACKS,
    "wan-flf2v-test-pack": REPO / "tests" / "support" / "packs" / "wan_flf2v_test_pack",
}
# What takes longest comes first, so that no worker is left alone with it at the end.
LONGEST_FIRST = (
    "test_page", "test_editor", "test_demo", "test_files", "test_solvers", "test_dispatcher_crash", "test_api_host",
    "test_wan_vae", "test_training", "test_crash_workers", "test_outward", "test_api_cli", "test_segments",
    "test_openapi", "test_resume", "test_dispatcher", "test_cli_broken", "test_phases", "test_video_formats",
    "test_jetstream_cluster", "test_crash_bench", "test_cli_process", "test_seeds_and_gate", "test_video",
    "test_workers_host", "test_workers", "test_mount", "test_dispatcher_trouble", "test_serve",
    "test_attacks_http_clients", "test_jetstream", "test_outward_host",
)  # fmt: skip

# Each process of the tests gets one thread for its tiny tensors: more of them only wait, and keep the processor busy.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with SIGINT ignored, children inherit that, and then Ctrl-C cannot be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    """Let the host tests run on the registry's archive, not on the checkout, and those of the gateway on JetStream."""
    parser.addoption(
        "--store", choices=["sqlite", "jetstream"], default="sqlite", help="on which store the tests of the gateway run"
    )
    parser.addoption(
        "--pack-archive", action="store_true", help="ComfyUI loads the pack from the registry's archive, unpacked"
    )


def pytest_collection_modifyitems(config, items):
    """Mark what is fast, leave out what nobody asked for, and put the longest files first.

    Not tryfirst: pytest's own hook, which puts all tests of one version together, comes before this one.
    """
    for item in items:
        if not {"comfy_install", "project_comfyui"} & set(item.fixturenames) and not item.get_closest_marker("slow"):
            item.add_marker("fast")
    unasked = {"sweep", "pictures", "saved"} - set(config.option.markexpr.split())
    left_out = [item for item in items if any(map(item.get_closest_marker, unasked)) or _needs_no_older_comfyui(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    rank = {stem: place for place, stem in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for python, address in json.loads(os.environ.get(WARM, "{}")).items():
        if any((_install(item) or {}).get("python") == python for item in items):
            Programs(address).warm_up()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Share out the tests by file and version of ComfyUI: what a module's fixtures start is started once."""
    from xdist.scheduler import LoadScopeScheduling

    versions = [host["version"] for host in HOSTS if host]

    class ByFileAndVersion(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            version = next((version for version in versions if re.search(rf"\[{re.escape(version)}[-\]]", nodeid)), "")
            return nodeid.partition("::")[0] + version

    config.option.loadscopereorder = False  # in the order of pytest_collection_modifyitems
    return ByFileAndVersion(config, log)


def _install(item):
    return item.callspec.params.get("comfy_install") if hasattr(item, "callspec") else None


def _needs_no_older_comfyui(item):
    """Tests of the gateway, its page, the training and the editor's Nodes 2.0 run on the newest.

    Those marked as smoke run on the others too, and of the rest, those marked as newest do not.
    """
    if _install(item) in (None, NEWEST):
        return False
    newest_alone = item.path.parent.name == "gateway" or item.path.name in ("test_page.py", "test_training.py")
    nodes_2 = hasattr(item, "callspec") and item.callspec.params.get("renderer") == "nodes 2.0"
    if newest_alone or nodes_2:
        return not item.get_closest_marker("smoke")
    return bool(item.get_closest_marker("newest"))


def pytest_configure(config):
    """Start a Python for each ComfyUI that all workers share; ``warm_starts`` says what for."""
    os.environ[CHOSEN] = config.getoption("store")
    if hasattr(config, "workerinput"):
        return
    os.environ.pop(WARM, None)  # of a run around this one
    if sys.platform != "linux" or HOSTS == [None]:
        return
    folder = Path(tempfile.mkdtemp(prefix="wan-flf2v-warm-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    addresses = {}
    for number, python in enumerate({host["python"] for host in HOSTS}):
        addresses[python] = folder / f"{number}.socket"
        config.add_cleanup(WarmPython(python, addresses[python], folder / f"{number}.log").close)
    os.environ[WARM] = json.dumps({python: str(address) for python, address in addresses.items()})


@pytest.fixture(scope="session")
def warm_starts():
    """Let ComfyUI start from Pythons that have its libraries imported, where processes can fork."""
    if WARM not in os.environ:
        yield None
        return
    warm = WarmStarts(HOSTS, json.loads(os.environ[WARM]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "_popen", warm.popen)
        yield warm


@pytest.fixture(scope="session", params=HOSTS, ids=lambda host: host["version"] if host else "none")
def comfy_install(request, warm_starts):
    """A ComfyUI under test: ``version``, ``newest`` of those, ``path``, its ``python``, and ``popen`` to run that."""
    if request.param is None:
        pytest.fail(NEEDS_RUN_PY, pytrace=False)
    return _with_popen(request.param, warm_starts)


def _with_popen(install, warm_starts):
    python = install["python"]
    popen = warm_starts.python(python).popen if warm_starts else functools.partial(_popen, python)
    return {**install, "popen": popen, "newest": install == NEWEST}


def _popen(python, arguments, env, cwd, log):
    return subprocess.Popen([python, *arguments], env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=log, stderr=log)


@pytest.fixture(scope="session")
def project_comfyui(warm_starts):
    """Where the ComfyUI lies that runs in the project's own environment, as the demo's does."""
    if HOSTS == [None]:
        pytest.fail(NEEDS_RUN_PY, pytrace=False)
    paths = [host["path"] for host in HOSTS if host["python"] == sys.executable]
    if not paths:
        pytest.skip("--hosts leaves out the ComfyUI of the project's own environment")
    return paths[0]


@pytest.fixture(scope="session")
def demo_models(warm_starts, tmp_path_factory):
    """The folder of models, made by the first host, taken by every host: random ones, and the demo's experts.

    Under the name of the demo's VAE lies the random one, a quarter as wide: a small run's time goes to the VAE.
    """
    folder, install = cache_dir() / "test-models", _with_popen(HOSTS[0], warm_starts)
    with setup_lock(cache_dir() / "test-models.lock"):
        copy_trained_models(folder)
        script = REPO / "demo" / "make_models.py"
        run_python(install, tmp_path_factory.mktemp("models"), script, install["path"], folder)
        shutil.copyfile(folder / "vae" / "tiny_wan_vae.safetensors", folder / "vae" / "demo_wan_vae.safetensors")
    return folder


@pytest.fixture(scope="session")
def pack_archive(tmp_path_factory):
    """The registry's archive, unpacked."""
    return copy_files(archive_files(), tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def comfy_servers(request, demo_models, warm_starts, tmp_path_factory):
    """All servers of this worker; the shared ones run until it has no more tests."""
    packs = dict(PACKS)
    if request.config.getoption("pack_archive"):
        packs[PACK] = request.getfixturevalue("pack_archive")
    servers = Servers(tmp_path_factory.mktemp("servers"), packs, demo_models)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def new_comfy_server(comfy_install, comfy_servers):
    """Return a function that makes a ComfyUI with extra command-line arguments; ``with`` starts it."""
    return functools.partial(comfy_servers.new, comfy_install)


@pytest.fixture(scope="session")
def comfy_server(comfy_install, comfy_servers):
    """One ComfyUI that the tests share; leave it as it was."""
    return comfy_servers.shared(comfy_install)


@pytest.fixture
def own_comfy_server(new_comfy_server):
    """A ComfyUI for one test, which may kill it."""
    with new_comfy_server() as host:
        yield host


@pytest.fixture(scope="module")
def new_gateway(tmp_path_factory):
    """Return a function that starts a gateway without limits; keywords are further settings."""
    with contextlib.ExitStack() as stack:

        def start(comfyui_url=NOWHERE, **settings):
            folder = tmp_path_factory.mktemp("gateway")
            return stack.enter_context(Gateway(folder, comfyui_url, config={**NO_LIMITS, **settings}))

        yield start
