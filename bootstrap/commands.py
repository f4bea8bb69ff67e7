"""The commands of run.py (setup, demo, serve, test, bench, train). Each returns its exit code."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .browser import ensure_browser
from .comfyui import DEFAULT_VERSION, OLDEST_SUPPORTED, PINS, ComfyUI, find_own_comfyui, pin_for
from .console import SetupError, say
from .environment import ensure_comfyui_env, ensure_newest_env, ensure_project_env, nats_server
from .lock import setup_lock
from .managed import ensure_managed
from .paths import REPO, cache_dir
from .server import (
    STOP_GRACE_S,
    ComfyServer,
    ServerError,
    comfy_env,
    link_folder,
    port_is_taken,
    prepare_base_dir,
    server_args,
)

INTERRUPTED = 130  # what shells report for Ctrl-C
NATS_PORT = 4222  # that of docs/nats-server.conf
GATEWAY_PORT = 8219  # wan-flf2v serve's own
# One worker more than there are cores, since many tests wait; each has its own ComfyUI, so eight are enough.
# tests/conftest.py says how tests are shared out. `-n 0` after it wins.
_WORKERS = ("-n", str(min((os.cpu_count() or 2) + 1, 8)), "--dist", "loadscope")
PACK = "wan-flf2v"
TYPED = ("contract", "client", "cli", "gateway", "quality", "bootstrap")


def setup() -> int:
    """Prepare what the other commands need, and say where it is."""
    comfyui, python = _prepare("demo")
    say(f"ready: ComfyUI {comfyui.version} at {comfyui.path}, Python at {python}")
    return 0


def demo(arguments: Sequence[str]) -> int:
    """Make the demo video; ``arguments`` are passed on."""
    comfyui, python = _prepare("demo")
    return _become([*_demo_command(comfyui, python), *arguments])


def serve(port: int, with_demo: bool, workers: int = 0, *, nats: str | None = None) -> int:
    """Run ComfyUI with the pack in the foreground on 127.0.0.1:``port``.

    ``workers``: run so many with the demo's models, at every second port from there on, as a fleet: with a worker
    beside each, the requests on the nats-server at ``nats``, or on one that is started, and a gateway. 8189, next to
    ComfyUI's own port, is that of Comfy-Org's API proxy.
    """
    comfyui, python = _prepare("fleet" if workers else "demo")
    env, ports = comfy_env(), range(port, port + 2 * max(workers, 1), 2)
    for each in [*ports, *([GATEWAY_PORT] if workers else [])]:
        if port_is_taken(each):
            hint = "" if each == GATEWAY_PORT else ", or choose another with --port"
            raise SetupError(f"port {each} is taken by another program: stop it{hint}")
    if workers and nats is None and port_is_taken(NATS_PORT):
        raise SetupError(
            f"port {NATS_PORT} is taken by another program: stop it, or, if it is a nats-server, give its address: "
            f"--nats nats://127.0.0.1:{NATS_PORT}"
        )
    if workers:
        return _serve_several(comfyui, python, ports, nats)
    if with_demo:
        base_dir = _prepare_demo(comfyui, python, cache_dir())
        arguments = [*server_args(base_dir, port), "--cpu"]
        env["WAN_FLF2V_DEMO"] = "true"  # the hosted API offers the demo's model too
    else:
        base_dir, arguments = _serve_for_real(comfyui, port)
        arguments += [] if _has_accelerator(python) else ["--cpu"]
    say(f"starting ComfyUI {comfyui.version} at http://127.0.0.1:{port}; Ctrl-C stops it")
    return _become([str(python), str(comfyui.path / "main.py"), *arguments], cwd=base_dir, env=env)


def test(versions: Sequence[str] | None, newest: bool, pytest_arguments: Sequence[str]) -> int:
    """Run the checks and all tests; ``versions`` of ComfyUI, None for the one found and the oldest supported.

    ``newest``: on the one found alone, with the newest Python, torch and PyAV. Everything runs even if something
    fails. Returns the exit code of the first that failed.
    """
    with setup_lock(cache_dir()):
        own = _own_or_managed()
        if newest:
            python, wanted = ensure_newest_env(own, cache_dir()), [own.version]
        else:
            python = ensure_project_env(own, "test")
            wanted = list(versions or dict.fromkeys((own.version, OLDEST_SUPPORTED)))
        copies = [_comfyui_for_tests(version, own, python) for version in wanted]
        ensure_browser()
    failed = _check(python)
    say(f"pytest on ComfyUI {', '.join(copy['version'] for copy in copies)}")
    env = {**comfy_env(), "WAN_FLF2V_TEST_HOSTS": json.dumps(copies)}
    # -I, here and elsewhere: `python -m` would put the repository on sys.path, where its nodes/ hides ComfyUI's
    command = [str(python), "-I", "-m", "pytest", *_WORKERS, *pytest_arguments]
    code = _run(command, cwd=REPO, env=env)
    return failed or code


def bench(
    name: str, json_file: str | None, rounds: int | None, workers: int | None = None, store: str = "sqlite"
) -> int:
    """Run one benchmark or all; SetupError for a name that is not in ``benchmarks/``."""
    names = sorted(path.stem for path in (REPO / "benchmarks").glob("*.py") if not path.name.startswith("_"))
    if not names:
        raise SetupError("there are no benchmarks yet")
    if name not in ("all", *names):
        raise SetupError(f"there is no benchmark {name!r}; there are: all, {', '.join(names)}")
    comfyui, python = _prepare("test")
    result = ["--json", json_file] if json_file else []
    result += ["--rounds", str(rounds)] if rounds is not None else []
    result += ["--workers", str(workers)] if workers is not None else []
    result += ["--store", store]
    return _become([str(python), "-I", "-m", "wan_flf2v.benchmarks", name, "--comfyui", str(comfyui.path), *result])


def train(stage: str | None, minutes: float | None, start_from: str | None) -> int:
    """Make the demo's models, one stage or all; the training itself refuses a stage it does not have."""
    comfyui, python = _prepare("train")
    arguments = ["--comfyui", str(comfyui.path), "--work", str(cache_dir() / "training")]
    arguments += ["--stage", stage] if stage else []
    arguments += ["--minutes", str(minutes)] if minutes is not None else []
    arguments += ["--start-from", start_from] if start_from else []
    return _become([str(python), "-I", "-m", "wan_flf2v.training", *arguments])


def _prepare(extra: str) -> tuple[ComfyUI, Path]:
    """Return the ComfyUI to use and the Python of the project's environment, both ready."""
    with setup_lock(cache_dir()):
        comfyui = _own_or_managed()
        return comfyui, ensure_project_env(comfyui, extra)


def _own_or_managed() -> ComfyUI:
    return find_own_comfyui() or ensure_managed(pin_for(DEFAULT_VERSION), cache_dir())


def _demo_command(comfyui: ComfyUI, python: Path, cache: Path | None = None) -> list[str]:
    paths = ["--comfyui", str(comfyui.path), "--cache", str(cache or cache_dir())]
    return [str(python), "-I", "-m", "wan_flf2v.demo", *paths]


def _prepare_demo(comfyui: ComfyUI, python: Path, cache: Path) -> Path:
    """Return a base directory in ``cache`` with the demo's models."""
    command = [*_demo_command(comfyui, python, cache), "--prepare-only"]
    prepared = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if prepared.returncode:
        raise SetupError(f"the demo could not be prepared (exit code {prepared.returncode}); the lines above say why")
    return Path(prepared.stdout.splitlines()[-1])


def _serve_several(comfyui: ComfyUI, python: Path, ports: Sequence[int], nats: str | None) -> int:
    """Run a ComfyUI at each port, each with its folder and a worker, and a gateway in the foreground."""
    program = [str(python), "-I", "-m", "wan_flf2v"]
    data = cache_dir() / "serve-fleet"
    command = [*program, "serve", "--demo", "--no-auth", "--port", str(GATEWAY_PORT), "--data", str(data)]
    env = {"WAN_FLF2V_MOUNT": "false"}  # the gateway has the API
    with contextlib.ExitStack() as stack:
        if nats is None:
            nats, server_program = f"nats://127.0.0.1:{NATS_PORT}", nats_server(python)
            say(f"starting {server_program} at {nats}")
            config = ["-c", str(REPO / "docs" / "nats-server.conf"), "-p", str(NATS_PORT)]
            stack.enter_context(_background([server_program, *config, "-sd", str(data / "nats")]))
        for number, port in enumerate(ports, 1):
            base_dir = _prepare_demo(comfyui, python, cache_dir() / f"serve-{number}")
            server = ComfyServer(comfyui.path, python, base_dir, port=port, extra_args=["--cpu"], env=env)
            say(f"starting ComfyUI {comfyui.version} at http://127.0.0.1:{port}")
            try:
                stack.enter_context(server)
            except ServerError as error:
                raise SetupError(str(error)) from error
            worker = ["worker", "--nats", nats, "--comfyui", server.url, "--name", f"comfyui-{number}"]
            stack.enter_context(_background([*program, *worker]))
        say(f"starting the gateway at http://127.0.0.1:{GATEWAY_PORT}; Ctrl-C stops all")
        return _run([*command, "--nats", nats])


@contextlib.contextmanager
def _background(command: Sequence[str]) -> Iterator[None]:
    """Run a command beside the block; at its end it is asked to end, and made to if it does not."""
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve_for_real(comfyui: ComfyUI, port: int) -> tuple[Path, list[str]]:
    """Return the working directory and ComfyUI's arguments; the managed copy keeps its files in the cache folder."""
    if comfyui.managed:
        base_dir = cache_dir() / "serve"
        prepare_base_dir(base_dir, {PACK: REPO})
        say(f"model files go below {base_dir / 'models'}: diffusion_models, text_encoders, vae; results to output")
        return base_dir, server_args(base_dir, port)
    arguments = ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    if not any(entry.exists() and entry.samefile(REPO) for entry in (comfyui.path / "custom_nodes").glob("*")):
        packs = cache_dir() / "serve-pack"
        packs.mkdir(parents=True, exist_ok=True)
        link_folder(packs / PACK, REPO)
        config = cache_dir() / "serve-pack.yaml"
        # a JSON string is a YAML string too, whatever characters the path has
        config.write_text(f"wan_flf2v:\n  custom_nodes: {json.dumps(str(packs))}\n", "utf-8")
        arguments += ["--extra-model-paths-config", str(config)]
    return comfyui.path, arguments


def _has_accelerator(python: Path) -> bool:
    code = "import sys, torch; sys.exit(not torch.accelerator.is_available())"
    return subprocess.run([str(python), "-I", "-c", code], check=False).returncode == 0


def all_versions() -> list[str]:
    """Return every pinned ComfyUI version, the newest first."""
    return list(PINS)


def _comfyui_for_tests(version: str, own: ComfyUI, own_python: Path) -> dict[str, str]:
    if version == own.version:
        comfyui, python = own, own_python
    else:
        comfyui = ensure_managed(pin_for(version), cache_dir())
        python = ensure_comfyui_env(comfyui, cache_dir())
    return {"version": version, "path": str(comfyui.path), "python": str(python)}


def _check(python: Path) -> int:
    """Run the linter, the formatter's check and the type checker; return the exit code of the first that failed."""
    # The repository is a package whatever its folder is called; mypy needs to see it under the package's own name.
    package = cache_dir() / "package"
    package.mkdir(parents=True, exist_ok=True)
    link_folder(package / "wan_flf2v", REPO)
    mypy = ["mypy", "--config-file", str(REPO / "pyproject.toml"), "--follow-imports", "silent"]
    for name in TYPED:
        mypy += ["-p", f"wan_flf2v.{name}"]
    failed = 0
    for folder, check in ((REPO, ["ruff", "check"]), (REPO, ["ruff", "format", "--check"]), (package, mypy)):
        say(" ".join(check))
        code = _run([str(python), "-I", "-m", *check], cwd=folder)
        if code:
            say(f"{check[0]} found something (exit code {code}); going on with the rest")
        failed = failed or code
    return failed


def _run(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Run a command to its end. Ctrl-C reaches it from the terminal; after its clean-up, this is interrupted too."""
    interrupted = False
    process = subprocess.Popen(command, cwd=cwd, env=env)
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            interrupted = True
            continue
        if interrupted:
            raise KeyboardInterrupt
        return code


def _become(command: list[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Replace this process by ``command``, which then gets all its signals; on Windows, run it."""
    if sys.platform == "win32":
        return _run(command, cwd, env)
    if cwd:
        os.chdir(cwd)
    return os.execve(command[0], command, os.environ if env is None else env)  # noqa: S606 -- no shell is wanted
