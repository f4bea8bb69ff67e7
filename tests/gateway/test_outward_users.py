"""NATS with users and certificates: what a worker may say and hear there, and that no secret of theirs is shown."""

import asyncio
import base64
import json
from dataclasses import replace

import nats
import nkeys
import pytest
import trustme
from support.api_runs import submit, until
from support.nats_server import CONFIG, NatsServer, extended_config, free_ports
from support.outward_workers import fleet, look_often, run, workers
from wan_flf2v.benchmarks._stand_in import StandIn
from wan_flf2v.gateway.jobs.jetstream_store import JetStreamStore
from wan_flf2v.gateway.jobs.store import StoreFileError
from wan_flf2v.gateway.settings import NatsAccess

FORBIDDEN_TO_SAY = (
    "wfw.from.gpu-2.run.hello",
    "wfw.from.gpu-2.run.gateway.pipe",
    "wfw.from.x.run.hello",
    "wfw.to.gpu-1.run.note",
    "wfw.to.gpu-2.run.note",
    "wfw.to.gpu-2.run.gateway.pipe",
    "wfw_other.from.gpu-1.run.hello",
    "wf.now.job.token.open.id",
    "wf.now.token.hash",
    "wf.fact.workers",
    "$JS.API.STREAM.INFO.WF",
    "$JS.API.STREAM.MSG.GET.WF",
    "$JS.API.STREAM.DELETE.WF",
    "$JS.API.CONSUMER.CREATE.WF",
    "wfb.part.upload.0",
    "wfp.7b1c7c1e-0000-4000-8000-000000000000",
    "$JS.API.DIRECT.GET.WFB.wfb.part.upload.0",
    "$JS.API.STREAM.PURGE.WFB",
    "_INBOX.of-a-gateway",
)
FORBIDDEN_TO_HEAR = (
    "wfw.to.gpu-2.>",
    "wfw.to.*.run.>",
    "wfw.from.gpu-2.>",
    "wfw.from.gpu-1.>",
    "wf.>",
    "wf.now.job.>",
    "wfb.>",
    "wfp.>",
    "_INBOX.>",
    "$JS.>",
    "$SYS.>",
    ">",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    look_often(monkeypatch)
    monkeypatch.setattr("wan_flf2v.gateway.jobs.jetstream._CONNECT_S", 2.0)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a nats-server with a configuration, and returns its host and port."""
    started = []

    def start(config):
        started.append(NatsServer(tmp_path / "nats", free_ports(1)[0], config=config).start())
        return started[0].url.removeprefix("nats://")

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def users(start, monkeypatch):
    """A server with the users of the configuration that users are given; where it is."""
    for name in ("GATEWAY", "GPU_1", "GPU_2"):
        monkeypatch.setenv(f"WAN_NATS_{name}_PASSWORD", f"secret-{name.lower()}")
    return start(CONFIG.with_name("nats-fleet.conf"))


def test_a_worker_may_say_and_hear_what_is_its_own_and_nothing_else(users):
    async def test():
        errors, heard = [], []

        async def note(error):
            errors.append(str(error))

        async def hear(message):
            heard.append(message.subject)

        async def refused(call):
            count = len(errors)
            await call
            await worker.flush()
            await until(lambda: len(errors) > count)
            assert "permissions violation" in errors[-1].lower()

        gateway = await nats.connect(f"nats://gateway:secret-gateway@{users}")
        worker = await nats.connect(f"nats://gpu-1:secret-gpu_1@{users}", error_cb=note)
        await gateway.subscribe(">", cb=hear)
        await gateway.flush()
        for subject in FORBIDDEN_TO_SAY:
            await refused(worker.publish(subject, b"{}"))
        for subject in FORBIDDEN_TO_HEAR:
            await refused(worker.subscribe(subject, cb=hear))
        assert [subject for subject in heard if not subject.startswith("$")] == []
        await worker.publish("wfw.from.gpu-1.run.hello", b"{}")
        await until(lambda: "wfw.from.gpu-1.run.hello" in heard)
        got = await worker.subscribe("wfw.to.gpu-1.run.>")
        await worker.flush()
        await gateway.publish("wfw.to.gpu-1.run.note", b"{}")
        assert (await got.next_msg(5)).subject == "wfw.to.gpu-1.run.note"
        await worker.close()
        await gateway.close()

    run(test())


def test_a_job_needs_no_more_than_that(tmp_path, users, caplog):
    async def test():
        address = f"nats://gateway:secret-gateway@{users}"
        mine = NatsAccess(f"nats://gpu-1:secret-gpu_1@{users}")
        async with StandIn() as host, fleet(tmp_path, nats_url=address) as api, api.dispatching():
            async with workers(api, mine, **{"gpu-1": host}):
                assert (await api.until(await submit(api.store))).status == "succeeded"
            assert "violation" not in caplog.text.lower()
            async with workers(api, mine, **{"gpu-2": host}):
                await until(lambda: "permissions violation" in caplog.text.lower())
            assert "secret" not in caplog.text

    run(test())


def jwt(issuer, subject, kind, **claims):
    """Return a token of NATS, as nsc makes it."""

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {
        "jti": "x", "iat": 1, "iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "name": kind,
        "nats": {"type": kind, "version": 2, **claims},
    }  # fmt: skip
    signed = b".".join(encode(json.dumps(part).encode()) for part in (header, body))
    return (signed + b"." + encode(issuer.sign(signed))).decode()


def test_a_credentials_file_opens_the_store_and_is_never_shown(tmp_path, start, caplog):
    kinds = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER
    keys = (nkeys.from_seed(nkeys.encode_seed(bytes([number]) * 32, kind)) for number, kind in enumerate(kinds))
    operator, system, account, user = keys
    names = "subs conn leaf imports exports data payload mem_storage disk_storage streams consumer"
    limits = {**dict.fromkeys(names.split(), -1), "wildcards": True}
    accounts = {
        system.public_key.decode(): jwt(operator, system, "account"),
        account.public_key.decode(): jwt(operator, account, "account", limits=limits),
    }
    config = extended_config(
        tmp_path,
        f"operator: {jwt(operator, operator, 'operator')}\nresolver: MEMORY\n"
        f"system_account: {system.public_key.decode()}\nresolver_preload: {json.dumps(accounts)}",
    )
    where = start(config)
    token, seed = jwt(account, user, "user", subs=-1, data=-1, payload=-1), user.seed.decode()
    credentials = tmp_path / "user.creds"
    dashes = "------"
    credentials.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n{dashes}END NATS USER JWT{dashes}\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n{dashes}END USER NKEY SEED{dashes}\n"
    )
    access = NatsAccess(f"nats://{where}", credentials)
    asyncio.run(JetStreamStore(access).close())
    with pytest.raises(StoreFileError, match="Authorization Violation"):
        JetStreamStore(NatsAccess(f"nats://{where}"))
    with pytest.raises(StoreFileError, match=r"nats_credentials.* cannot be used: .*No such file"):
        JetStreamStore(replace(access, credentials=tmp_path / "none.creds"))
    credentials.write_text("nothing")
    with pytest.raises(StoreFileError, match=r"user\.creds has no user of NATS"):
        JetStreamStore(access)
    credentials.write_text("BEGIN NATS USER JWT\nx\nBEGIN USER NKEY SEED\ny\n")
    with pytest.raises(StoreFileError, match=r"NATS at 127\.0\.0\.1:[0-9]+ cannot be used: "):
        JetStreamStore(access)
    assert token not in caplog.text and seed not in caplog.text


def test_both_ends_show_their_certificates(tmp_path, start):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    authority.issue_cert("worker@example.com").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mine.pem")
    config = extended_config(
        tmp_path,
        f'tls {{ cert_file: "{server}", key_file: "{server}", verify: true, ca_file: "{tmp_path / "ca.pem"}" }}',
    )
    where = start(config)
    files = {"nats_ca": tmp_path / "ca.pem", "nats_certificate": tmp_path / "mine.pem"}

    async def test():
        async with (
            StandIn() as host,
            fleet(tmp_path, nats_url=f"tls://{where}", **files) as api,
            api.dispatching(),
            workers(api, one=host),
        ):
            assert (await api.until(await submit(api.store))).status == "succeeded"

    run(test())
    with pytest.raises(StoreFileError, match=r"NATS at .* cannot be used: .*certificate"):
        JetStreamStore(NatsAccess(f"tls://{where}"))
    with pytest.raises(StoreFileError, match="cannot be used"):
        JetStreamStore(NatsAccess(f"tls://{where}", ca=tmp_path / "ca.pem"))
