"""run.py as a person meets it: help, refusals, old Pythons."""

import ast
import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from wan_flf2v.bootstrap import commands
from wan_flf2v.bootstrap.console import SetupError
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.hosted_api import DEFAULT_PORT

RUN = REPO / "run.py"


def run(*arguments, **env):
    command = [sys.executable, str(RUN), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    return result.returncode, result.stdout, result.stderr


def test_old_pythons_can_read_it_as_far_as_the_message():
    source = RUN.read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    first = [node for node in tree.body if not isinstance(node, ast.Expr)][:2]
    assert isinstance(first[0], ast.Import) and [name.name for name in first[0].names] == ["sys"]
    # the check itself, run with an old version in sys.version_info's place
    code = compile(ast.Module([first[1]], []), "run.py", "exec")
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer, this is 3\.8"):
        exec(code, {"sys": type("sys", (), {"version_info": (3, 8, 18), "exit": staticmethod(sys.exit)})})


def test_help_lists_the_commands_and_the_variables():
    code, out, _ = run("--help")
    assert code == 0
    for word in ("setup", "demo", "serve", "test", "bench", "COMFYUI_PATH", "WAN_FLF2V_CACHE", "UV_TORCH_BACKEND"):
        assert word in out


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["--out", "--start", "--end", "--prompt"]),
        ("serve", ["--port", "--demo", "--workers", "--nats"]),
        ("test", ["--hosts", "--newest"]),
    ],
)
def test_help_of_a_command_lists_its_options(command, options):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert all(option in out for option in options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--fps", "3"], "unknown arguments: --fps 3"),
        (["serve", "--port", "70000"], "'70000' is not a port: a number from 1 to 65535 is expected"),
        (["serve", "--demo", "--workers", "0"], "'0' is not a number from 1 to 64"),
        (["serve", "--workers", "2"], "--workers goes with --demo"),
        (["serve", "--demo", "--nats", "nats://127.0.0.1:4222"], "--nats goes with --workers"),
        (["serve", "--demo", "--workers", "2", "--nats", "4222"], "nats://HOST:PORT is expected"),
        (["test", "--hosts", "0.30.0,0.1.0"], "ComfyUI 0.1.0 is not pinned; there are: 0.30.0"),
        (["test", "--newest", "--hosts", "0.30.0"], "not allowed with argument --newest"),
        ([], "required"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments, message):
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err


def test_the_comfyuis_of_a_fleet_leave_the_ports_of_other_programs(monkeypatch):
    """8189 is that of Comfy-Org's API proxy; the gateway takes its own."""
    used = []
    monkeypatch.setattr(commands, "_prepare", lambda extra: (None, None))
    monkeypatch.setattr(commands, "port_is_taken", lambda port: False)
    monkeypatch.setattr(commands, "_serve_several", lambda comfyui, python, ports, nats: used.extend(ports))
    commands.serve(8188, with_demo=True, workers=64)
    assert used[0] == 8188
    assert len(set(used) - {8189, DEFAULT_PORT}) == 64
    assert commands.GATEWAY_PORT == DEFAULT_PORT


@pytest.mark.parametrize("own", [False, True])
def test_a_fleet_is_on_the_nats_server_that_is_given_or_starts_one(monkeypatch, tmp_path, own):
    started, comfyui = [], contextlib.nullcontext()
    comfyui.url = "http://127.0.0.1:8188"
    monkeypatch.setattr(commands, "_prepare_demo", lambda *_: tmp_path)
    monkeypatch.setattr(commands, "ComfyServer", lambda *_, **__: comfyui)
    monkeypatch.setattr(commands, "_prepare", lambda extra: (SimpleNamespace(path="", version=""), tmp_path / "python"))
    monkeypatch.setattr(commands, "port_is_taken", lambda port: False)
    monkeypatch.setattr(commands, "_background", lambda command: contextlib.nullcontext(started.append(command)))
    monkeypatch.setattr(commands, "_run", started.append)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    nats = "tls://mine:4222/name" if own else None
    commands.serve(8188, with_demo=True, workers=2, nats=nats)
    servers = [each for each in started if "wan_flf2v" not in each]
    assert [each[0] for each in servers] == ([] if own else [str(tmp_path / "nats-server")])
    others = [each for each in started if "wan_flf2v" in each]
    assert [each[4] for each in others] == ["worker", "worker", "serve"]
    assert {each[each.index("--nats") + 1] for each in others} == {nats or "nats://127.0.0.1:4222"}


def test_a_nats_server_at_the_port_is_named_as_one_of_your_own(monkeypatch):
    monkeypatch.setattr(commands, "_prepare", lambda extra: (None, None))
    monkeypatch.setattr(commands, "port_is_taken", lambda port: port == commands.NATS_PORT)
    with pytest.raises(SetupError, match=r"give its address: --nats nats://127\.0\.0\.1:4222"):
        commands.serve(8188, with_demo=True, workers=2)


def test_an_unknown_benchmark_is_refused_before_anything_is_set_up(tmp_path):
    code, _, err = run("bench", "no-such", WAN_FLF2V_CACHE=str(tmp_path / "cache"))
    assert code == 1
    assert "there are no benchmarks yet" in err or "there is no benchmark 'no-such'; there are: all, " in err
    assert not (tmp_path / "cache").exists()


def test_a_comfyui_path_without_comfyui_ends_in_one_line(tmp_path):
    code, _, err = run("setup", WAN_FLF2V_CACHE=str(tmp_path / "cache"), COMFYUI_PATH=str(tmp_path))
    assert code == 1
    assert "that folder is no ComfyUI" in err and "Traceback" not in err
