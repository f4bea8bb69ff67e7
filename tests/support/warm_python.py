"""Starts ComfyUI's Python quickly: a process that has imported the libraries forks for each start. Linux only.

A cold start spends 12 of its 15 seconds of processor time on importing libraries. Each fork imports ComfyUI and this
pack itself, so a server behaves as after a cold start; tests/host/test_demo.py and test_serve.py start cold.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIBRARIES = (
    "OpenGL.EGL", "OpenGL.GL", "OpenGL.GLES3", "aiohttp.web", "alembic.command", "av", "comfy_kitchen", "einops",
    "jinja2", "kornia", "numpy", "pydantic_settings", "requests", "safetensors.torch", "scipy.integrate",
    "scipy.ndimage", "scipy.optimize", "scipy.signal", "scipy.stats", "spandrel", "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm", "torch", "torch._dynamo", "torchaudio", "torchsde", "torchvision", "transformers",
    "transformers.convert_slow_tokenizer", "yaml", "transformers.models.bert.tokenization_bert",
    "transformers.models.byt5.tokenization_byt5", "transformers.models.clip.tokenization_clip",
    "transformers.models.llama.tokenization_llama", "transformers.models.qwen2.tokenization_qwen2",
    "transformers.models.t5.tokenization_t5",
)  # fmt: skip
MESSAGE_BYTES = 1 << 17


class WarmPython:
    """A Python that imports the libraries once somebody asks for it; ``popen`` starts programs in forks of it."""

    def __init__(self, python, address, log_path):
        """Start it; it ends with this process. ``Programs`` in any process use it at ``address``, a socket's path."""
        theirs, self._lifeline = os.pipe()
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-I", __file__, str(address)],
                stdin=theirs,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(theirs)
        while not address.exists():
            if self._process.poll() is not None:
                raise RuntimeError(f"{python} did not start:\n{log_path.read_text('utf-8', 'replace')[-2000:]}")
            time.sleep(0.01)

    def close(self):
        """End it. What it started goes on."""
        os.close(self._lifeline)
        self._process.wait()


class Programs:
    """Programs that run in forks of the warm Python at an address."""

    def __init__(self, address):
        self._address = str(address)

    def warm_up(self):
        """Let it import the libraries now; does not wait."""
        self._connect().close()

    def popen(self, arguments, env, cwd, log):
        """Start ``python *arguments`` in a new session, with a pipe as standard input."""
        theirs, stdin = os.pipe()
        message = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": dict(env)}).encode()
        status = self._connect()
        socket.send_fds(status, [message], [theirs, log.fileno()])
        os.close(theirs)
        return Fork(arguments, status, os.fdopen(stdin, "wb"))

    def _connect(self):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self._address)
        return connection


class Fork:
    """What the owner of a server needs of ``subprocess.Popen``."""

    def __init__(self, arguments, status, stdin):
        self.args, self.stdin, self.returncode, self._status = arguments, stdin, None, status
        self.pid = int(status.recv(64))

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._status.recv(64))
            self._status.close()
        return self.returncode


def fork_for_each_request(address):
    """Return, in a fork, the request that it is for; ends the process once standard input closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    unfinished = address.with_suffix(".unfinished")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(unfinished))
    listener.listen(100)
    unfinished.rename(address)
    is_warm = False
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            sys.exit()
        connection, _ = listener.accept()
        if not is_warm:
            import_libraries()
            is_warm = True
        message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 2)
        if message and os.fork() == 0:
            listener.close()
            return json.loads(message), descriptors, connection
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)


def import_libraries():
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):  # not every version of ComfyUI has all of them
            importlib.import_module(library)


def become(request, descriptors, owner):
    """Fork again: the parent tells the owner when the child has ended, the child goes on as the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stdin, log = descriptors
    if child := os.fork():
        os.close(stdin)
        owner.send(str(child).encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):
            owner.send(str(code).encode())
        os._exit(0)
    owner.close()
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    for number, descriptor in enumerate((stdin, log, log)):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace", write_through=True)


def run(arguments):
    """Do what ``python *arguments`` does, for ``-c CODE`` and for a script."""
    if arguments[0] == "-c":
        sys.argv, sys.path[:0] = ["-c", *arguments[2:]], [""]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv, sys.path[:0] = arguments, [str(Path(arguments[0]).parent)]
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    request, *connections = fork_for_each_request(Path(sys.argv[1]))
    become(request, *connections)
    run(request["arguments"])
