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
    """A Python that has the libraries imported; ``popen`` starts programs in forks of it."""

    def __init__(self, python, log_path):
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there, log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-I", __file__, str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[there.fileno()],
                start_new_session=True,
            )

    def popen(self, arguments, env, cwd, log):
        """Start ``python *arguments`` in a session of its own, with a pipe as standard input."""
        theirs, stdin = os.pipe()
        status, their_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": dict(env)}).encode()
        socket.send_fds(self._socket, [message], [theirs, log.fileno(), their_status.fileno()])
        os.close(theirs)
        their_status.close()
        return Fork(arguments, status, os.fdopen(stdin, "wb"))

    def close(self):
        """End it. What it started goes on."""
        self._socket.close()
        self._process.wait()


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


def fork_for_each_request(requests):
    """Return, in a fork, the request that it is for; ends the process once nobody can ask any more."""
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):  # not every version of ComfyUI has all of them
            importlib.import_module(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 3)
        if not message:
            sys.exit()
        if os.fork() == 0:
            requests.close()
            return json.loads(message), descriptors
        for descriptor in descriptors:
            os.close(descriptor)


def become(request, descriptors):
    """Fork again: the parent tells the owner when the child has ended, the child goes on as the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stdin, log, status = descriptors
    if child := os.fork():
        os.close(stdin)
        with socket.socket(fileno=status) as owner:
            owner.send(str(child).encode())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with contextlib.suppress(OSError):
                owner.send(str(code).encode())
        os._exit(0)
    os.setsid()
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
    request, descriptors = fork_for_each_request(socket.socket(fileno=int(sys.argv[1])))
    become(request, descriptors)
    run(request["arguments"])
