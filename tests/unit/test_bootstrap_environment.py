"""The stamp that says an environment is complete, the cache folder, and one set-up at a time."""

import json
import subprocess
import sys
import textwrap

import pytest
from wan_flf2v.bootstrap import environment
from wan_flf2v.bootstrap.comfyui import ComfyUI
from wan_flf2v.bootstrap.console import SetupError
from wan_flf2v.bootstrap.environment import STAMP, python_in, stamp_matches
from wan_flf2v.bootstrap.lock import setup_lock
from wan_flf2v.bootstrap.paths import REPO, cache_dir


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    (tmp_path / "comfyui").mkdir()
    (tmp_path / "comfyui" / "requirements.txt").write_text("numpy\n")
    return ComfyUI("0.30.0", tmp_path / "comfyui", managed=True)


@pytest.fixture
def env(tmp_path, host):
    """An environment that looks like one, completely installed with the demo extra."""
    folder = tmp_path / "env"
    python_in(folder).parent.mkdir(parents=True)
    python_in(folder).touch()
    (folder / "pyvenv.cfg").write_text("version = 3.11.7\n")
    stamp(folder, host, "demo")
    return folder


def stamp(env, host, extra):
    (env / STAMP).write_text(json.dumps({"inputs": environment._inputs(env, host), "extra": extra}))


def test_a_stamp_holds_while_nothing_changes(env, host):
    assert stamp_matches(env, host, "demo")


def test_the_test_extra_includes_the_demo_extra_but_not_the_other_way(env, host):
    assert not stamp_matches(env, host, "test")
    stamp(env, host, "test")
    assert stamp_matches(env, host, "demo") and stamp_matches(env, host, "test")


@pytest.mark.parametrize(
    "change",
    [
        lambda env, host, monkeypatch: (host.path / "requirements.txt").write_text("numpy\nscipy\n"),
        lambda env, host, monkeypatch: (env / "pyvenv.cfg").write_text("version = 3.12.1\n"),
        lambda env, host, monkeypatch: monkeypatch.setenv("UV_TORCH_BACKEND", "cpu"),
        lambda env, host, monkeypatch: monkeypatch.setattr(environment, "TORCH", ("torch==2.12.0",)),
        lambda env, host, monkeypatch: python_in(env).unlink(),
        lambda env, host, monkeypatch: (env / STAMP).unlink(),
        lambda env, host, monkeypatch: (env / STAMP).write_text("half a sta"),
        lambda env, host, monkeypatch: (env / STAMP).write_text("[]"),
    ],
    ids=[
        "requirements",
        "python",
        "torch backend",
        "torch pins",
        "no python",
        "no stamp",
        "cut-off stamp",
        "no object",
    ],
)
def test_whatever_decides_the_packages_makes_the_stamp_stale(env, host, monkeypatch, change):
    change(env, host, monkeypatch)
    assert not stamp_matches(env, host, "demo")


def test_a_moved_environment_is_stale(env, host, tmp_path):
    env.rename(tmp_path / "moved")
    assert not stamp_matches(tmp_path / "moved", host, "demo")


def test_the_cache_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("WAN_FLF2V_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="pyenv is not for Windows")
def test_the_newest_python_comes_first_also_one_that_pyenv_has_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    for version in ("3.99.1", "3.99.2", "3.100.0", "3.8.20", "4.0.0rc1"):
        binary = tmp_path / "versions" / version / "bin" / "python3"
        binary.parent.mkdir(parents=True)
        numbers, level = (version[:-3], "candidate") if "rc" in version else (version, "final")
        binary.write_text(f"#!/bin/sh\necho cpython {level} {numbers.replace('.', ' ')}\n")
        binary.chmod(0o755)
    pythons = dict(environment.installed_pythons())
    assert list(pythons)[:3] == ["3.100.0", "3.99.2", "3.99.1"]
    assert pythons["3.99.2"] == tmp_path / "versions" / "3.99.2" / "bin" / "python3"
    assert ".".join(map(str, sys.version_info[:3])) in pythons
    assert "3.8.20" not in pythons


def test_a_python_that_some_package_does_not_support_is_passed_over(monkeypatch, tmp_path, host):
    ran = []

    def run_tool(failure, *command):
        ran.append([str(part) for part in command])
        if "install" in command and "newest-3.100.0" in str(command):
            raise SetupError("torch has no wheel for it")

    monkeypatch.setattr(
        environment, "installed_pythons", lambda: [("3.100.0", "python3.100"), ("3.99.2", "python3.99")]
    )
    monkeypatch.setattr(environment, "run_tool", run_tool)
    monkeypatch.setattr(environment, "_remove_torchaudio_libraries", lambda python: None)
    assert environment.ensure_newest_env(host, tmp_path) == python_in(tmp_path / "envs" / "newest-3.99.2")
    assert [command[command.index("--python") + 1] for command in ran if "venv" in command] == [
        "python3.100",
        "python3.99",
    ]
    assert {"--upgrade", "torch", "av", str(host.path / "requirements.txt")} <= set(ran[-1]), "not the pinned ones"
    monkeypatch.setattr(environment, "installed_pythons", lambda: [("3.100.0", "python3.100")])
    with pytest.raises(SetupError, match="torch has no wheel for it"):
        environment.ensure_newest_env(host, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG base directories are Linux's")
def test_the_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("WAN_FLF2V_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "wan-flf2v"


def test_a_second_set_up_waits_and_a_killed_one_lets_go(tmp_path):
    holder_code = """
        import sys, pathlib
        sys.path.insert(0, sys.argv[1])
        from bootstrap.lock import setup_lock
        with setup_lock(pathlib.Path(sys.argv[2])):
            print("held", flush=True)
            sys.stdin.read()
    """
    waiter_code = holder_code.replace("sys.stdin.read()", "pass")
    arguments = [str(REPO), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(holder_code), *arguments], **pipes)
    assert holder.stdout.readline() == "held\n"
    waiter = subprocess.Popen([sys.executable, "-c", textwrap.dedent(waiter_code), *arguments], **pipes)
    assert "waiting for another set-up" in waiter.stderr.readline()
    holder.kill()
    holder.communicate()
    said, _ = waiter.communicate(timeout=60)
    assert said == "held\n" and waiter.returncode == 0
    with setup_lock(tmp_path):
        assert (tmp_path / "setup.lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for nats-server")
@pytest.mark.parametrize(("version", "taken"), [("v2.12.0", True), ("v3.0.1", True), ("v2.11.9", False), ("", False)])
def test_a_nats_server_on_the_path_that_is_too_old_is_passed_over(monkeypatch, tmp_path, version, taken):
    program = tmp_path / "nats-server"
    program.write_text(f"#!/bin/sh\necho nats-server: {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    own = str(tmp_path / "env" / "nats-server")
    assert environment.nats_server(tmp_path / "env" / "python") == (str(program) if taken else own)
