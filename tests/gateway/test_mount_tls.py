"""The API mounted in a ComfyUI that serves TLS, with a certificate of no authority, for another name."""

import http.client
import json
import os
import signal
import ssl
import time

import pytest
import trustme
from support.gateway_process import BODY, SUBMIT_DEMO
from wan_flf2v.bootstrap.server import comfy_env, free_port, server_args

FAST = {"71_widthx71_height": "96x128 (3:4)", "67_length": 17, "57_steps": 1}


@pytest.fixture
def secure(comfy_install, new_comfy_server):
    """Return a function that calls a ComfyUI with TLS and the API mounted: ``(status, json)``."""
    host = new_comfy_server()  # not started: it would be asked without TLS whether it is there
    certificate = trustme.CA().issue_cert("video.example.com")
    certificate.private_key_pem.write_to_path(host.base_dir / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(host.base_dir / "cert.pem")
    folder = host.base_dir / "user" / "wan_flf2v"
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(json.dumps({"demo": True}))
    port = free_port()
    arguments = [str(host.comfyui_dir / "main.py"), *server_args(host.base_dir, port), "--cpu", "--disable-api-nodes"]
    arguments += ["--tls-keyfile", "key.pem", "--tls-certfile", "cert.pem"]

    def ask(method, path, body=None):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
        try:
            headers = {"Authorization": f"Bearer {(folder / 'token').read_text()}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    with (host.base_dir / "server.log").open("wb") as log:
        process = comfy_install["popen"](arguments, comfy_env(), host.base_dir, log)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                ask("GET", "/v1/healthz")
                break
            except OSError:
                assert process.poll() is None, host.log_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield ask
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)


def test_the_api_reaches_its_own_host(secure):
    assert secure("GET", "/v1/readyz") == (200, {"ready": True, "status": "ready", "problems": []})
    status, refused = secure("POST", SUBMIT_DEMO, {**BODY, **FAST, "68_image": "nobody.png"})
    assert (status, refused["error_code"]) == (422, 422001), "names are looked up"
    status, accepted = secure("POST", SUBMIT_DEMO, {**BODY, **FAST, "68_image": "start.jpg", "62_image": "end.jpg"})
    assert status == 200, accepted
    assert accepted["status_url"].startswith("https://127.0.0.1:")
    deadline = time.monotonic() + 120
    path = f"/v1/requests/{accepted['request_id']}"
    while secure("GET", f"{path}/status")[1]["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    _, result = secure("GET", f"{path}/result")
    assert result["status"] == "succeeded", result
    assert result["output"]["video"].startswith("https://127.0.0.1:")
