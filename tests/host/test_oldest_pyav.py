"""Video files by the oldest PyAV that a ComfyUI brings: unit tests of formats, writer and spool in its Python."""

import json
import os
import sys

import pytest
from support.in_comfyui import run_python
from wan_flf2v.bootstrap.environment import OLDEST_AV
from wan_flf2v.bootstrap.paths import REPO

HOSTS = json.loads(os.environ.get("WAN_FLF2V_TEST_HOSTS", "[]"))
OTHERS = [host for host in HOSTS if host and host["python"] != sys.executable]
FILES = ("test_video_formats", "test_video_writer", "test_spool")

# That Python has PyAV and all else that ComfyUI requires; pytest and ffmpeg's command line come last on its path, from
# the project's own environment.
RUN = """
import json, os, sys
repo, pack, packages, *files = sys.argv[1:]
import av
os.environ["PYTHONPATH"] = pack
sys.path[:0] = [pack, os.path.join(repo, "tests")]
sys.path += json.loads(packages)
import pytest
print("PyAV", av.__version__, flush=True)
options = ["--noconftest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull, "--rootdir", repo]
sys.exit(pytest.main([*options, *files]))
"""


@pytest.mark.parametrize("comfy_install", OTHERS, indirect=True, ids=lambda host: host["version"])
def test_every_format_is_written_by_the_oldest_pyav(comfy_install, tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "wan_flf2v").symlink_to(REPO)
    files = [REPO / "tests" / "unit" / f"{name}.py" for name in FILES]
    own = [path for path in sys.path if "site-packages" in path]
    printed = run_python(comfy_install, tmp_path, "-c", RUN, REPO, pack, json.dumps(own), *files, cwd=tmp_path)
    assert printed.startswith(f"PyAV {OLDEST_AV.partition('==')[2]}\n")
