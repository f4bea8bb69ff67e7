"""``submit``, ``status``, ``result``, ``watch`` and ``token``: exit codes, and what people are told."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner
from wan_flf2v.__main__ import app

IMAGES = ("--start", "a.png", "--end", "b.png", "--prompt", "x")


@pytest.fixture
def environment(gateway, tmp_path, monkeypatch):
    """The gateway's address and token, and a new folder."""
    for name in [name for name in os.environ if name.startswith(("WAN_FLF2V_", "RUNCOMFY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return {"RUNCOMFY_MODEL_API_BASE": f"{gateway.url}/v1", "RUNCOMFY_API_TOKEN": gateway.token}


@pytest.fixture
def cli(environment):
    """Return a function that runs the command line to its end: exit code, standard output, standard error."""

    def run(*arguments, **variables):
        done = CliRunner().invoke(app, list(map(str, arguments)), env={**environment, **variables})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def start(environment):
    """Return a function that starts the command line as a process."""

    def start(*arguments, **variables):
        own = {name: value for name, value in {**os.environ, **environment, **variables}.items() if value is not None}
        command = [sys.executable, "-I", "-m", "wan_flf2v", *map(str, arguments)]
        return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def end(gateway, request_id, status="failed"):
    with gateway.store() as store:
        store.assign(request_id)
        store.end(request_id, status, error="the disk is full" if status == "failed" else None)


def test_a_failed_request_is_told_as_failed(gateway, cli):
    request_id = gateway.submit()
    end(gateway, request_id)
    code, out, err = cli("status", request_id)
    assert (code, err) == (1, "")
    told = json.loads(out)
    assert (told["request_id"], told["status"], told["error"]) == (request_id, "failed", "the disk is full")
    why = f"The request {request_id} failed: the disk is full\n"
    code, out, err = cli("result", request_id)
    assert (code, json.loads(out)["status"], err) == (1, "failed", why)
    assert cli("watch", request_id) == (1, "", why)


def test_an_unfinished_or_cancelled_request_has_no_result(gateway, cli):
    request_id = gateway.submit()
    assert cli("status", request_id)[0] == 0
    code, out, err = cli("result", request_id)
    assert (code, json.loads(out)["status"]) == (1, "in_queue")
    assert err == f"The request {request_id} has not ended yet. `wan-flf2v watch {request_id}` waits for it.\n"
    gateway.cancel(request_id)
    assert cli("status", request_id)[0] == 1
    assert cli("result", request_id)[::2] == (1, f"The request {request_id} was cancelled.\n")


def test_waiting_for_a_request_that_fails_shows_no_end_but_the_reason(gateway, start):
    with start("submit", *IMAGES, "--wait") as process:
        request_id = process.stderr.readline().removeprefix("Request ").strip()
        process.stderr.readline()  # it waits now
        end(gateway, request_id)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.endswith(f"The request {request_id} failed: the disk is full\n")
    assert "ompleted" not in err


def test_the_file_is_called_what_the_result_is(gateway, start, tmp_path):
    with start("submit", *IMAGES, "--wait") as process:
        request_id = process.stderr.readline().removeprefix("Request ").strip()
        with gateway.store() as store:
            store.assign(request_id)
            gateway.succeed(store, request_id, video="video.webm")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"{request_id}.webm\n"), err
    assert (tmp_path / f"{request_id}.webm").read_bytes() == b"made up"


@pytest.mark.skipif(sys.platform == "win32", reason="no Ctrl-C can be sent to one process there")
def test_ctrl_c_prints_the_command_that_goes_on(gateway, start, tmp_path):
    (tmp_path / "my token").write_text(f"{gateway.token}\n")
    named = ("--api", f"{gateway.url}/v1", "--token-file", "my token")
    with start("submit", *IMAGES, "--wait", "-o", "out.mp4", *named, RUNCOMFY_MODEL_API_BASE=None) as process:
        request_id = process.stderr.readline().removeprefix("Request ").strip()
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    again = f"wan-flf2v watch {request_id} -o out.mp4 --api {gateway.url}/v1 --token-file 'my token'"
    assert f"The request {request_id} goes on. To watch it again: {again}\n" in err
    assert process.returncode == 130
    assert gateway.status(request_id)["status"] == "in_queue"


@pytest.mark.skipif(sys.platform == "win32", reason="no Ctrl-C can be sent to one process there")
def test_ctrl_c_during_the_download_prints_it_too(gateway, start, tmp_path):
    request_id = gateway.submit()
    with gateway.store() as store:
        store.assign(request_id)
        gateway.succeed(store, request_id)
    with (gateway.data / "results" / request_id / "video.mp4").open("r+b") as video:
        video.truncate(20 << 30)  # it takes no room, but long to download
    with start("watch", request_id, "-o", "out.mp4") as process:
        while not list(tmp_path.glob(".out.mp4.*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert f"The request {request_id} has ended. To watch it again: wan-flf2v watch {request_id} -o out.mp4\n" in err
    assert process.returncode == 130
    assert not list(tmp_path.glob("*out.mp4*"))


def test_a_missing_or_wrong_token_says_where_it_belongs(cli, tmp_path):
    _, _, missing = cli("status", "x", RUNCOMFY_API_TOKEN=None)
    assert "No token was given: put it into RUNCOMFY_API_TOKEN, or its file's name behind --token-file." in missing
    assert "The token came from RUNCOMFY_API_TOKEN." in cli("status", "x", RUNCOMFY_API_TOKEN="wf_wrong")[2]
    (tmp_path / "token").write_text("wf_wrong")
    assert "The token came from --token-file token." in cli("status", "x", "--token-file", "token")[2]
    (tmp_path / "token").write_bytes(b"\xff\n\xfe")
    assert cli("status", "x", "--token-file", "token")[::2] == (
        2,
        "--token-file token holds no token: one word of ASCII characters is expected.\n",
    )
    code, _, err = cli("status", "x", "--token-file", "none")
    assert (code, err) == (2, "--token-file none: the file cannot be read (No such file or directory).\n")


def test_tokens_are_listed_without_making_a_store(cli, tmp_path):
    data = tmp_path / "data"
    code, out, err = cli("token", "list", "--data", data)
    assert (code, out) == (0, "")
    assert err.startswith(f"There is no token in {data}. ")
    assert cli("token", "revoke", "bob", "--data", data)[0] == 2
    assert not data.exists()
    cli("token", "create", "bob", "--data", data)
    code, out, err = cli("token", "list", "--data", data)
    assert (code, err) == (0, f"Tokens in {data}:\n")
    assert "bob" in out
    assert cli("token", "revoke", "bob", "--data", data) == (0, "", "Token bob is revoked.\n")
