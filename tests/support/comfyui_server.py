"""The ComfyUI servers of a test session: started when a test first needs one, ended with the session."""

import asyncio
import json
import shutil
from pathlib import Path

from wan_flf2v.bootstrap import server
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.run import run_graph

from support.warm_python import Programs


class RunningComfyUI:
    """A ComfyServer with its version, and shorthands to run graphs and read what they wrote."""

    def __init__(self, server, version):
        self.server = server
        self.host_version = version

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop()

    def __getattr__(self, name):
        return getattr(self.server, name)

    def run(self, graph, **options):
        """Queue the graph, wait, and return the client's result; its exceptions come through."""

        async def go():
            async with ComfyClient(self.url) as client:
                return await run_graph(client, graph, **options)

        return asyncio.run(go())

    def path(self, file):
        """Return where an output file of a result lies."""
        return self.base_dir / "output" / file.subfolder / file.filename

    def tensors(self, name):
        """Return the tensors that a dump node wrote under ``name``."""
        import safetensors.torch  # not above: most tests need no torch, which takes seconds to import

        return safetensors.torch.load_file(self.base_dir / "output" / f"{name}.safetensors")

    def state(self, name):
        """Return the model state that DumpModel wrote under ``name``."""
        return json.loads((self.base_dir / "output" / f"{name}.json").read_text())


class Servers:
    """Makes servers of the installed versions, and keeps one of each to share."""

    def __init__(self, folder, packs, models):
        self._folder, self._packs, self._models = folder, packs, models
        self._shared, self._count = {}, 0

    def new(self, install, *arguments):
        """Return a server that has the packs, the models and the photographs; ``with`` starts it."""
        self._count += 1
        base_dir = self._folder / f"{install['version']}-{self._count}"
        server.prepare_base_dir(base_dir, self._packs)
        shutil.copytree(self._models, base_dir / "models", dirs_exist_ok=True)
        for image in (REPO / "demo" / "images").glob("*.jpg"):
            shutil.copy(image, base_dir / "input")
        arguments = ("--cpu", "--disable-api-nodes", *arguments)
        path, python = Path(install["path"]), Path(install["python"])
        made = server.ComfyServer(path, python, base_dir, extra_args=arguments)
        return RunningComfyUI(made, install["version"])

    def shared(self, install):
        """Return the running server of a version that all tests of this process share."""
        version = install["version"]
        if version not in self._shared:
            self._shared[version] = self.new(install)
            self._shared[version].server.start()
        return self._shared[version]

    def stop(self):
        """Stop what is shared."""
        for each in self._shared.values():
            each.server.stop()


class WarmStarts:
    """Let every ComfyServer whose ComfyUI is one of ``installs`` start from a Python that is warm.

    ``addresses`` are those of the warm Pythons, by the path of the Python that each stands for.
    """

    def __init__(self, installs, addresses):
        self._pythons = {str(Path(install["path"]) / "main.py"): install["python"] for install in installs}
        self._addresses, self._cold = addresses, server._popen

    def popen(self, command, env, cwd, log):
        """Stand in for ``bootstrap.server._popen``: its command is ``python -c CODE main.py ...``."""
        main = command[3]
        if main in self._pythons:
            return self.python(self._pythons[main]).popen(command[1:], env, cwd, log)
        return self._cold(command, env, cwd, log)

    def python(self, path):
        """Return what starts programs as the Python at this path would."""
        return Programs(self._addresses[path])
