"""The commands ``serve`` and ``token``, and what the client's commands say when something is wrong."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import uuid

import pytest
from support.api_runs import submit
from support.gateway_process import NOWHERE, Gateway
from support.stores import fleet_url, nats_url, sqlite_only
from wan_flf2v.gateway.jobs.opening import open_store
from wan_flf2v.gateway.jobs.sqlite_store import SqliteStore
from wan_flf2v.gateway.settings import NatsAccess, read_settings


@pytest.fixture
def cli(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WAN_FLF2V_", "RUNCOMFY_"))}
    if url := nats_url(tmp_path):
        environment["WAN_FLF2V_NATS_URL"] = url

    def run(*arguments, **variables):
        command = [sys.executable, "-I", "-m", "wan_flf2v", *map(str, arguments)]
        environment.update(variables)
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60, check=False
        )

    return run


def test_tokens_are_made_listed_and_revoked(cli, tmp_path):
    made = cli("token", "create", "alice", "--data", tmp_path, "--queue", 3, "--priority", "high")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert token.startswith("wf_")
    assert "whsec_" in made.stderr
    listed = cli("token", "list", "--data", tmp_path).stdout
    assert "alice" in listed
    assert "high" in listed
    assert "Token alice has priority low." in cli("token", "priority", "alice", "low", "--data", tmp_path).stderr
    assert "low" in cli("token", "list", "--data", tmp_path).stdout
    assert "'highest' is not one of" in cli("token", "priority", "alice", "highest", "--data", tmp_path).stderr
    assert 'no token "bob"' in cli("token", "priority", "bob", "low", "--data", tmp_path).stderr
    assert token not in listed
    content = b"".join(path.read_bytes() for path in tmp_path.glob("store.sqlite3*"))
    assert token.encode() not in content, "only its hash is kept"
    with Gateway(tmp_path) as gateway:
        assert gateway.get("/v1/models", token=token).status == 200
        assert cli("token", "revoke", "alice", "--data", tmp_path).returncode == 0
        assert gateway.get("/v1/models", token=token).status == 401
    assert cli("token", "revoke", "alice", "--data", tmp_path).returncode == 2


@pytest.mark.parametrize("name", ["", "a b", "../x", "anonymous", "x" * 65])
def test_a_token_needs_a_name(cli, tmp_path, name):
    assert cli("token", "create", name, "--data", tmp_path).returncode == 2


def test_a_name_is_taken_once(cli, tmp_path):
    assert cli("token", "create", "bob", "--data", tmp_path).returncode == 0
    again = cli("token", "create", "bob", "--data", tmp_path)
    assert again.returncode == 2
    assert "already" in again.stderr


@pytest.mark.parametrize(
    ("content", "word"),
    [('{"nonsense": 1}', "nonsense"), ('{"queue_limit": "many"}', "queue_limit"), ("[]", "object"), ("{", "JSON")],
)
def test_bad_settings_are_named(cli, tmp_path, content, word):
    (tmp_path / "api.json").write_text(content)
    done = cli("serve", "--data", tmp_path, "--port", 0, "--config", "api.json")
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_from_the_environment_are_under_the_options(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("WAN_FLF2V_QUEUE_LIMIT", "7")
    monkeypatch.setenv("WAN_FLF2V_TRUSTED_PROXIES", "10.0.0.1, 10.0.0.2")
    monkeypatch.setenv("WAN_FLF2V_DEMO", "false")
    (tmp_path / "api.json").write_text(json.dumps({"queue_limit": 5, "demo": True, "url_ttl_s": 60}))
    settings = read_settings(tmp_path, tmp_path / "api.json", demo=True)
    assert settings.queue_limit == 7
    assert settings.trusted_proxies == ("10.0.0.1", "10.0.0.2")
    assert settings.demo is True
    assert settings.url_ttl_s == 60
    bad = cli("serve", "--data", tmp_path, "--port", 0, WAN_FLF2V_QUEUE_LIMIT="many")
    assert bad.returncode == 2
    assert "queue_limit" in bad.stderr


@pytest.mark.parametrize("command", [("serve",), ("token", "create"), ("token", "revoke"), ("workers", "drain")])
def test_help_says_where_requests_are_kept(cli, command):
    done = cli(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "--nats" in done.stdout and "JetStream" in done.stdout


@pytest.mark.parametrize("command", [("serve", "--port", 0), ("token", "list"), ("workers", "list")])
def test_a_nats_that_is_not_there_is_said_at_the_start(cli, tmp_path, command):
    done = cli(*command, "--data", tmp_path, "--nats", "nats://me:secret@127.0.0.1:9")
    assert done.returncode == 1, done.stderr
    assert "NATS at 127.0.0.1:9 cannot be used" in done.stderr
    assert "secret" not in done.stderr and "Traceback" not in done.stderr


def test_what_is_missing_on_nats_is_said_with_the_command_that_makes_it(cli, tmp_path):
    url = fleet_url(tmp_path)
    for command, hint in (
        (("token", "list"), "no token in NATS. `wan-flf2v token create NAME --nats URL` makes one there"),
        (
            ("workers", "list"),
            "No gateway has run with NATS yet. `wan-flf2v serve --comfyui URL --nats URL` starts one",
        ),
    ):
        done = cli(*command, "--nats", url)
        assert done.returncode == 0, done.stderr
        assert hint in " ".join(done.stderr.split())
    assert cli("token", "create", "me", "--nats", url).returncode == 0
    listed = cli("token", "list", "--nats", url)
    assert "Tokens in NATS:" in listed.stderr and "me" in listed.stdout
    assert "yes" not in listed.stdout
    assert cli("token", "create", "boss", "--operator", "--nats", url).returncode == 0
    assert re.search(r"boss.*\byes\b", cli("token", "list", "--nats", url, COLUMNS="200").stdout)


def test_the_file_is_copied_to_nats(cli, tmp_path):
    url = fleet_url(tmp_path)
    for arguments, missing in (((), "Give --nats URL"), (("--nats", url), "Give --data FOLDER")):
        done = cli("store", "copy", "--data", tmp_path, *arguments, WAN_FLF2V_NATS_URL="")
        assert done.returncode == 2 and missing in done.stderr, done.stderr
    assert cli("token", "create", "me", "--data", tmp_path).returncode == 0
    done = cli("store", "copy", "--data", tmp_path, "--nats", url)
    assert done.returncode == 0, done.stderr
    assert "Copied to NATS: 1 tokens, 0 models, 0 requests" in done.stderr
    assert "me" in cli("token", "list", "--nats", url).stdout


def test_a_trace_shows_what_became_of_a_request(cli, tmp_path):
    """On the file and on NATS."""
    cli("token", "create", "me", "--data", tmp_path)
    for nats in ("", fleet_url(tmp_path)):  # the variable may name one
        option = "--data", tmp_path, "--nats", nats
        store = open_store(tmp_path, NatsAccess(nats) if nats else None)

        async def run(store=store):
            job = await submit(store)
            await store.assign(job.id, "an instance", name="http://one:8188")
            await store.end(job.id, "failed", error="out of memory")
            await store.close()
            return job.id

        job_id = asyncio.run(run())
        done = cli("requests", "trace", job_id, *option, COLUMNS="200")
        assert done.returncode == 0, done.stderr
        lines = [re.findall(r"[^│┃\s][^│┃]*[^│┃\s]|\d", line) for line in done.stdout.splitlines() if "T" in line]
        assert [line[1:] for line in lines[1:]] == [
            ["in_queue"],
            ["in_progress", "1", "http://one:8188"],
            ["failed", "1", "http://one:8188", "out of memory"],
        ]
        unknown = cli("requests", "trace", str(uuid.uuid4()), *option)
        assert unknown.returncode == 2 and "There is no request" in unknown.stderr


def test_an_empty_address_of_nats_is_none(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("WAN_FLF2V_NATS_URL", "")
    store = open_store(tmp_path, read_settings(tmp_path, None).nats)
    asyncio.run(store.close())
    assert isinstance(store, SqliteStore)
    listed = cli("token", "list", "--data", tmp_path, "--nats", "")
    assert f"wan-flf2v token create NAME --data {tmp_path}" in " ".join(listed.stderr.split())


def test_the_file_store_needs_no_nats(tmp_path):
    """The extra [cluster] is missing; its lack is said where --nats is given."""
    assert without("nats", "token", "create", "me", "--data", tmp_path).returncode == 0
    done = without("nats", "token", "list", "--data", tmp_path, "--nats", "nats://127.0.0.1:9")
    assert done.returncode == 1
    assert 'pip install "wan-flf2v[serve,cluster]' in done.stderr and "Traceback" not in done.stderr


def test_a_taken_port_is_said(cli, tmp_path):
    with Gateway(tmp_path / "first") as gateway:
        done = cli("serve", "--data", tmp_path / "second", "--port", gateway.url.rsplit(":", 1)[1])
    assert done.returncode == 2
    assert "--port" in done.stderr


def test_client_commands_say_what_is_wrong(cli, tmp_path):
    nobody = cli("status", "x", "--api", f"{NOWHERE}/v1")
    assert nobody.returncode == 1
    assert "Cannot reach the API" in nobody.stderr
    assert cli("status", "x", "--api", "nonsense").returncode == 2
    with Gateway(tmp_path / "data") as gateway:
        variables = {"RUNCOMFY_MODEL_API_BASE": f"{gateway.url}/v1", "RUNCOMFY_API_TOKEN": "wf_wrong"}
        refused = cli("status", "x", **variables)
        assert refused.returncode == 1
        assert "token" in refused.stderr
        variables["RUNCOMFY_API_TOKEN"] = gateway.token
        images = ["--start", "a.png", "--end", "b.png", "--prompt", "x"]
        bad = cli("submit", *images, "--webhook", "http://example.com", **variables)
        assert bad.returncode == 1
        assert "webhook" in bad.stderr
        request_id = cli("submit", *images, **variables).stdout.strip()
        assert json.loads(cli("cancel", request_id, **variables).stdout)["outcome"] == "cancelled"
        watched = cli("watch", request_id, **variables)
        assert watched.returncode == 1
        assert "cancelled" in watched.stderr
        for done in (nobody, refused, bad, watched):
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1:8188", "http://", "http://127.0.0.1:port"])
def test_an_address_that_is_none_is_refused_at_the_start(cli, tmp_path, address):
    done = cli("serve", "--data", tmp_path, "--port", 0, "--comfyui", address)
    assert done.returncode == 2
    assert f'"{address}" is not the address of a server' in done.stderr
    assert "Traceback" not in done.stderr


@sqlite_only
def test_a_dispatcher_that_breaks_is_told_and_starts_again(tmp_path):
    (tmp_path / "dispatcher.lock").mkdir()
    with Gateway(tmp_path) as gateway:
        request_id = gateway.submit()
        while "dispatcher" not in gateway.status(request_id).get("waiting_for", ""):
            time.sleep(0.05)
        assert "dispatcher failed" in gateway.get("/readyz").json["problems"][0]
        (tmp_path / "dispatcher.lock").rmdir()
        while "ComfyUI" not in gateway.status(request_id)["waiting_for"]:
            time.sleep(0.05)
        assert "dispatcher failed again_in_s=" in gateway.log_text()


_WITHOUT = "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split(','))); del sys.argv[1]; " + (
    "from wan_flf2v.__main__ import main; main()"
)


def without(modules, *arguments):
    """Run the command line where these modules cannot be imported."""
    command = [sys.executable, "-I", "-c", _WITHOUT, modules, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("modules", ["av", "filelock,pydantic_settings"])
def test_what_the_gateway_needs_is_checked_when_it_starts(tmp_path, modules):
    done = without(modules, "serve", "--data", tmp_path, "--port", 0, "--comfyui", NOWHERE)
    assert done.returncode == 2, done.stderr
    assert modules.split(",")[0] in done.stderr and 'pip install "wan-flf2v[serve]' in done.stderr
    assert "Traceback" not in done.stderr and "Serving" not in done.stderr


def test_the_other_commands_need_no_more_than_the_extra_client():
    assert "57_steps" in without("av,filelock,pydantic_settings", "params").stdout


@sqlite_only
@pytest.mark.parametrize("command", [("serve", "--port", 0, "--no-auth"), ("token", "list")])
def test_a_damaged_store_is_said_at_the_start(cli, tmp_path, command):
    (tmp_path / "store.sqlite3").write_text("not a database" * 500)
    done = cli(*command, "--data", tmp_path)
    assert done.returncode == 1, done.stderr
    assert f"{tmp_path / 'store.sqlite3'} is damaged, or no store of this API" in done.stderr
    assert "Traceback" not in done.stderr
