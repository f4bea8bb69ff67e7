"""What a gateway says at its start of NATS's ``sync_interval``: seen, wrong, or not to be seen."""

import asyncio
import contextlib
import subprocess
import sys

import pytest
from support.gateway_process import NOWHERE
from support.nats_server import CONFIG, Cluster, NatsServer, free_ports
from wan_flf2v.gateway.jobs.store import StoreFileError
from wan_flf2v.gateway.nats_monitor import check_sync
from wan_flf2v.gateway.settings import ConfigError, Settings


@contextlib.contextmanager
def monitored(folder, config):
    """Run a nats-server; yield its address and that of its monitoring port."""
    port, monitor = free_ports(2)
    server = NatsServer(folder / "nats", port, config=config, monitor=monitor).start()
    try:
        yield server.url, server.monitor
    finally:
        server.kill()


def log_of(caplog, folder, *monitors):
    caplog.clear()
    with caplog.at_level("INFO"):
        asyncio.run(check_sync(Settings(data=folder, nats_monitor_url=monitors)))
    return caplog.text


def test_what_cannot_be_seen_is_said_once_and_what_is_seen_too(tmp_path, caplog):
    assert log_of(caplog, tmp_path).count("NATS is not asked for its sync_interval") == 1
    with monitored(tmp_path, CONFIG) as (_, monitor):
        assert "is always, as seen of servers=1 of=1" in log_of(caplog, tmp_path, monitor)
        secret = "http://me:secret@127.0.0.1:9"
        text = log_of(caplog, tmp_path, secret, monitor)
        assert "cannot be seen monitor=http://127.0.0.1:9" in text and "secret" not in text
        assert "WARNING" in text and "servers=1 of=2" in text
    with pytest.raises(ConfigError, match="Give http://HOST:8222"):
        log_of(caplog, tmp_path, "127.0.0.1:8222")


def test_a_gateway_does_not_start_where_a_power_cut_loses_requests(tmp_path):
    config = tmp_path / "lazy.conf"
    config.write_text("jetstream {}")
    with monitored(tmp_path, config) as (url, monitor):
        command = [sys.executable, "-I", "-m", "wan_flf2v", "serve", "--data", str(tmp_path), "--comfyui", NOWHERE]
        command += ["--port", "0", "--nats", url, "--nats-monitor", monitor]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stderr
        assert "Put `sync_interval: always` into the jetstream block" in done.stderr
        with pytest.raises(StoreFileError, match=f"whose monitoring port is {monitor}"):
            asyncio.run(check_sync(Settings(data=tmp_path, nats_monitor_url=monitor)))


@pytest.mark.slow
def test_of_a_cluster_it_says_how_many_servers_it_saw(tmp_path, caplog):
    with Cluster(tmp_path, monitored=True) as cluster:
        urls = [node.monitor for node in cluster.nodes.values()]
        while "servers=3 of=3" not in log_of(caplog, tmp_path, *urls):  # until they have found each other
            pass
        assert "servers=1 of=3" in log_of(caplog, tmp_path, urls[0])
