"""The server process: base directory, a start that fails, a parent that dies. (Real starts: tests/host.)"""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import venv
from pathlib import Path

import pytest
from support.warm_python import Programs, WarmPython
from wan_flf2v.bootstrap import server as server_module
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.bootstrap.server import ComfyServer, ServerError, comfy_env, prepare_base_dir

PYTHON = Path(sys.executable)
# Serves /system_stats as ComfyUI does, on the port it is given: enough for start() to call it ready.
SERVING_MAIN = """
    import http.server, json, os, sys
    import neighbour
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"system": {"argv": sys.argv}}).encode())
    print("pid", os.getpid(), flush=True)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def make_server(tmp_path):
    def make(main, **options):
        comfyui = tmp_path / "comfyui"
        comfyui.mkdir()
        (comfyui / "main.py").write_text(textwrap.dedent(main))
        (comfyui / "neighbour.py").touch()
        prepare_base_dir(tmp_path / "base", {})
        return ComfyServer(comfyui, PYTHON, tmp_path / "base", **options)

    return make


def test_base_dir_has_the_folders_and_the_packs(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "one" / "file").touch()
    base = tmp_path / "base"
    prepare_base_dir(base, {"pack": tmp_path / "one"})
    assert {path.name for path in base.iterdir()} == {"custom_nodes", "input", "output", "models", "user", "temp"}
    assert (base / "custom_nodes" / "pack" / "file").exists()
    prepare_base_dir(base, {"pack": tmp_path / "one"})
    prepare_base_dir(base, {"pack": tmp_path / "other"})
    assert (base / "custom_nodes" / "pack").samefile(tmp_path / "other")
    assert (tmp_path / "one" / "file").exists()


def test_a_dangling_link_is_replaced(tmp_path):
    (tmp_path / "gone").mkdir()
    (tmp_path / "here").mkdir()
    prepare_base_dir(tmp_path / "base", {"pack": tmp_path / "gone"})
    (tmp_path / "gone").rmdir()
    prepare_base_dir(tmp_path / "base", {"pack": tmp_path / "here"})
    assert (tmp_path / "base" / "custom_nodes" / "pack").samefile(tmp_path / "here")


def test_a_real_folder_in_the_packs_place_is_left_alone(tmp_path):
    mine = tmp_path / "base" / "custom_nodes" / "pack"
    mine.mkdir(parents=True)
    (tmp_path / "pack").mkdir()
    with pytest.raises(FileExistsError, match="is in the way"):
        prepare_base_dir(tmp_path / "base", {"pack": tmp_path / "pack"})
    assert mine.is_dir() and not mine.is_symlink()


def test_the_repository_is_not_on_the_hosts_pythonpath(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), str(tmp_path)]))
    assert comfy_env({"X": "1"})["PYTHONPATH"] == str(tmp_path)
    assert comfy_env({"X": "1"})["X"] == "1"
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    assert "PYTHONPATH" not in comfy_env()


def test_a_server_that_dies_at_once_shows_its_log(make_server):
    server = make_server("raise RuntimeError('no such model zoo')")
    with pytest.raises(ServerError, match=r"ended \(exit code 1\) before it responded(?s:.*)no such model zoo"):
        server.start()
    assert not server.alive()


def test_a_server_that_never_responds_is_ended(make_server):
    server = make_server("import time\nprint('thinking', flush=True)\ntime.sleep(600)")
    with pytest.raises(ServerError, match=r"did not respond at http://127\.0\.0\.1:\d+ within 2 s(?s:.*)thinking"):
        server.start(timeout_s=2)
    assert not server.alive()


def test_a_taken_port_is_named(make_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} is taken by another program"):
            make_server(SERVING_MAIN, port=port).start()


@pytest.mark.skipif(os.name != "posix", reason="Windows lets two servers share a port that asks for re-use")
def test_a_port_lost_before_the_server_binds_it_is_replaced(make_server, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        lost, free_port = taken.getsockname()[1], server_module.free_port
        ports = iter([lost])
        monkeypatch.setattr(server_module, "free_port", lambda: next(ports, None) or free_port())
        with make_server(SERVING_MAIN) as server:
            assert server.alive() and not server.url.endswith(f":{lost}")


def test_it_starts_stops_and_starts_again(make_server):
    server = make_server(SERVING_MAIN)
    with server:
        assert server.alive() and server.url.startswith("http://127.0.0.1:")
        assert f"pid {server.pid}" in server.log_text()
    assert not server.alive()
    server.stop()
    server.start()
    server.kill()
    assert not server.alive()


def test_an_error_in_the_block_ends_the_server(make_server):
    server = make_server(SERVING_MAIN)
    with pytest.raises(KeyboardInterrupt), server:
        raise KeyboardInterrupt
    assert not server.alive()


@pytest.fixture
def ctrl_c_ignored():
    """As in what a shell starts in the background; children inherit it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent another way on Windows")
def test_ctrl_c_ends_a_server_that_was_started_with_it_ignored(make_server, ctrl_c_ignored):
    with make_server(SERVING_MAIN) as server:
        os.kill(server.pid, signal.SIGINT)
        while server.alive():  # pytest's time-out is the limit
            time.sleep(0.05)
        assert "KeyboardInterrupt" in server.log_text()


@pytest.mark.skipif(sys.platform != "linux", reason="warm Pythons run on Linux only")
def test_ctrl_c_ends_a_fork_of_a_warm_python_that_was_started_with_it_ignored(tmp_path, ctrl_c_ignored):
    venv.create(tmp_path / "env")  # without libraries to import
    warm = WarmPython(tmp_path / "env" / "bin" / "python", tmp_path / "socket", tmp_path / "log")
    with (tmp_path / "output").open("wb") as output:
        code = "import time; print('up', flush=True); time.sleep(600)"
        fork = Programs(tmp_path / "socket").popen(["-c", code], os.environ, tmp_path, output)
    while "up" not in (tmp_path / "output").read_text():  # pytest's time-out is the limit
        time.sleep(0.05)
    os.kill(fork.pid, signal.SIGINT)
    assert fork.wait() != 0
    warm.close()


@pytest.mark.skipif(os.name != "posix", reason="asks the operating system about process ids as POSIX does")
def test_the_server_does_not_outlive_a_killed_parent(make_server):
    server = make_server(SERVING_MAIN)
    parent_code = """
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from bootstrap.server import ComfyServer
        server = ComfyServer(Path(sys.argv[2]), Path(sys.executable), Path(sys.argv[3]))
        server.start()
        print(server.pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(parent_code), str(REPO)]
    command += [str(server.comfyui_dir), str(server.base_dir)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    while runs(pid):  # pytest's time-out is the limit
        time.sleep(0.05)


def runs(pid):
    """Return whether the process runs; one that has ended but was not yet collected does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
