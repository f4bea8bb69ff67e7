"""Cases of a run's parts that need no run, inside a ComfyUI: ``python resume_cases.py COMFYUI RESULTS``.

Each case's result goes into the JSON file RESULTS; what it must be is in tests/host/test_resume.py.
"""

import gc
import importlib
import itertools
import json
import os
import random
import sys
import sysconfig
import threading
import types
from functools import partial
from pathlib import Path
from unittest import mock

from vae_cases import RESULTS  # isort: skip -- first, it prepares the host
import comfy.model_patcher
import comfy.ops
import folder_paths
import numpy as np
import torch
from wan_flf2v import compat
from wan_flf2v.sampling import resume
from wan_flf2v.sampling.fingerprint import CannotTellError, Fingerprint, is_trusted
from wan_flf2v.sampling.phases import Expert, Phase, expert_order
from wan_flf2v.sampling.record import RandomStates, Record

GLOBAL = [1.0]
CPU = torch.device("cpu")
COMFYUI = Path(comfy.model_patcher.__file__).parents[1]
SETTINGS = types.ModuleType("settings_of_a_pack")
SETTINGS.factor, SETTINGS.more = 1.0, types.ModuleType("more_settings_of_a_pack")
SETTINGS.more.scale = 1.0
A_PACK = types.ModuleType("a_pack")
A_PACK.settings, A_PACK.size, SETTINGS.bias, SETTINGS.gain, SETTINGS.offset, SETTINGS.more.bias = SETTINGS, *[1.0] * 5
sys.modules |= {"a_pack": A_PACK, "a_pack.settings": SETTINGS, "a_pack.settings.more": SETTINGS.more}


class Holder:
    setting = 1.0

    def __init__(self, value):
        self.value = value

    def method(self):
        return self.value


class Holding(dict):
    pass


def of(value):
    fingerprint = Fingerprint()
    fingerprint.add(value)
    return fingerprint.digest()


def closure(value):
    return lambda: value


def reads_global():
    return GLOBAL[0]


def calls_reader():
    return reads_global()


def uses_class():
    return Holder.setting


def reads_module():
    return SETTINGS.factor, SETTINGS.more.scale


def imports():
    from a_pack.settings import bias

    return bias


def imports_in_a_function():
    def inner():
        import a_pack
        import a_pack.settings.more as more

        return lambda: (more.bias, a_pack.size)

    return inner()


def imports_relatively():
    from . import settings
    from .settings import gain

    return gain, settings.offset


def imports_by_name():
    return importlib.import_module("some_" + "pack").strength


def imports_what_is_not_loaded():
    import a_pack.that_no_one_has_loaded as other

    return other


def imports_what_is_not_there():
    from a_pack import that_no_one_has_set

    return that_no_one_has_set


class Scaling(torch.nn.Module):
    """A pack's network: with parameters, or without any."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner, self.strength = inner, 1.0

    def forward(self, x):
        return self.inner(x) * self.strength * GLOBAL[0]


def in_pack(function):
    """Return a function as if it stood in a module of a pack."""
    return types.FunctionType(function.__code__, {"__package__": "a_pack"})


def of_file(path):
    """Return a function that reads a global, as if it stood in this file."""
    code = reads_global.__code__.replace(co_filename=str(path))
    return types.FunctionType(code, globals())


def model():
    """Return the MODEL of a tiny net, with the parts that the host's own models have."""
    net = torch.nn.Module()
    net.diffusion_model = torch.nn.Linear(2, 2)
    net.model_sampling = torch.nn.Module()
    net.model_sampling.shift = 8.0
    net.get_dtype = lambda: torch.float32
    patcher = comfy.model_patcher.ModelPatcher(net, CPU, CPU)
    patcher.add_object_patch("model_sampling", net.model_sampling)
    patcher.add_patches({"diffusion_model.weight": ("diff", (torch.ones(2, 2),))}, 0.5)
    return patcher


LIBRARIES = Path(sysconfig.get_path("purelib"))
MORE_PACKS = Path(RESULTS).parent / "more packs"
folder_paths.add_model_folder_path("custom_nodes", str(MORE_PACKS))
PACKS = {
    "below Python's prefix": Path(sys.prefix),
    "in a folder that begins as the library's does": Path(f"{sysconfig.get_path('stdlib')}-packs"),
    "in a folder that begins as ComfyUI's does": Path(f"{COMFYUI / 'comfy'}-packs"),
    "in ComfyUI's folder": COMFYUI / "custom_nodes",
    "in a folder of packs in a library": LIBRARIES / "custom_nodes",
    "in a folder that ComfyUI is told of": MORE_PACKS,
}


def trusted_cases():
    """Files whose code is trusted to read nothing that is not told here."""
    yield "standard library", is_trusted(json.__file__)
    yield "library", is_trusted(str(LIBRARIES / "einops" / "einops.py"))
    yield "ComfyUI", is_trusted(comfy.model_patcher.__file__)
    yield "ComfyUI's nodes", is_trusted(str(COMFYUI / "nodes.py"))
    yield "a relative path to ComfyUI", is_trusted(os.path.relpath(comfy.model_patcher.__file__))
    function = of_file(LIBRARIES / "einops" / "einops.py")
    before = of(function)
    GLOBAL.append(1)
    yield "global of a library", of(function) == before


def same_cases():
    """Values that are told apart from nothing: made again, or the same object again."""
    yield "list", of([1, "a", None, 2.5]) == of([1, "a", None, 2.5])
    yield "tensor", of(torch.arange(3.0)) == of(torch.arange(3.0))
    yield "array", of(np.arange(3)) == of(np.arange(3))
    yield "closure", of(closure(2)) == of(closure(2))
    yield "partial", of(partial(closure, 2)) == of(partial(closure, 2))
    holder = Holder([1])
    yield "object", of(holder) == of(holder)
    yield "method", of(holder.method) == of(holder.method)
    patcher = model()
    before = of(patcher)
    patcher.patch_model(CPU)
    loaded = of(patcher)
    patcher.unpatch_model(CPU)
    yield "model that was loaded meanwhile", before == loaded == of(patcher)
    net = comfy.ops.disable_weight_init.Linear(1, 1)
    net.part = Scaling(torch.nn.Linear(1, 1))
    before = of(net.forward)
    net.part.strength = 2.0
    yield "network of ComfyUI, whose parts the host changes", of(net.forward) == before
    loop = []
    loop.append(loop)
    yield "cycle", of(loop) == of(loop)


def changed_cases():
    """Values of which each pair must be told apart."""
    pairs = {
        "int and bool": (1, True),
        "zero and minus zero": (0.0, -0.0),
        "text and bytes": ("a", b"a"),
        "nesting": ([[1], 2], [[1, 2]]),
        "keys": ({"a": 1}, {"b": 1}),
        "tensor": (torch.zeros(2), torch.tensor([0.0, -0.0])),
        "dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        "shape": (torch.zeros(2, 1), torch.zeros(1, 2)),
        "strides": (torch.zeros(2, 3), torch.zeros(3, 2).T),
        "closure": (closure(1), closure(2)),
        "partial": (partial(closure, 1), partial(closure, 2)),
        "default": (lambda x=1: x, lambda x=2: x),
        "method": (Holder(1).method, Holder(2).method),
        "object": (Holder(1), Holder(1)),
        "dict with attributes": (Holding(a=1), Holding(a=2)),
    }
    for name, (one, other) in pairs.items():
        yield name, of(one) != of(other)
    for name, change in in_place_cases():
        values, act = change
        before = of(values)
        act()
        yield name, of(values) != before


def in_place_cases():
    """Yield (name, (value, what changes it in place)); what a function reads elsewhere is a part of it."""
    tensor, holder, function = torch.zeros(3), Holder({"a": [1]}), closure(1)
    yield "tensor in place", (tensor, lambda: tensor.add_(1))
    yield "object in place", (holder, lambda: holder.value["a"].append(2))
    yield "method's object in place", (holder.method, lambda: holder.value.clear())
    yield "attribute of a function", (function, lambda: setattr(function, "calls", 1))
    yield "global", (reads_global, lambda: GLOBAL.append(1))
    yield "global of a function that it calls", (calls_reader, lambda: GLOBAL.append(1))
    yield "attribute of a module", (reads_module, lambda: setattr(SETTINGS, "factor", 2.0))
    yield "attribute of a module in it", (reads_module, lambda: setattr(SETTINGS.more, "scale", 2.0))
    yield "name that a function imports", (imports, lambda: setattr(SETTINGS, "bias", 2.0))
    for name, module in (("bias", SETTINGS.more), ("size", A_PACK)):
        yield f"{name} that an inner one imports", (imports_in_a_function, lambda n=name, m=module: setattr(m, n, 2.0))
    for name in ("gain", "offset"):
        case = in_pack(imports_relatively), lambda name=name: setattr(SETTINGS, name, 2.0)
        yield f"{name} that a function of a pack imports", case
    for place, folder in PACKS.items():
        yield f"global of a pack {place}", (of_file(folder / "pack" / "nodes.py"), lambda: GLOBAL.append(1))
    nets = {"": Scaling(), " with parameters": Scaling(torch.nn.Linear(1, 1))}
    for kind, net in nets.items():
        yield f"attribute of a pack's network{kind}", (net, lambda net=net: setattr(net, "strength", 0.5))
        yield f"global that a pack's network{kind} reads", (net, lambda: GLOBAL.append(1))
    for kind, inner in nets.items():
        outer = torch.nn.Sequential(torch.nn.Linear(1, 1), inner)
        yield (
            f"attribute of a pack's network{kind} in another",
            (outer, lambda net=inner: setattr(net, "strength", 2.0)),
        )
    yield "attribute of a class", (uses_class, lambda: setattr(Holder, "setting", 2.0))
    patcher = model()
    changes = {
        "shift": lambda: setattr(patcher.object_patches["model_sampling"], "shift", 5.0),
        "object patch": lambda: patcher.add_object_patch("diffusion_model.scale", 2.0),
        "weight patch": lambda: patcher.add_patches({"diffusion_model.bias": ("diff", (torch.ones(2),))}),
        "strength of a weight patch": lambda: patcher.patches["diffusion_model.weight"].__setitem__(0, (1.0,)),
        "model option": lambda: patcher.model_options.__setitem__("a", 1),
        "transformer option": lambda: patcher.model_options["transformer_options"].__setitem__("b", torch.ones(1)),
        "wrapper": lambda: patcher.add_wrapper("outer_sample", closure(1)),
        "callback": lambda: patcher.add_callback("on_load", closure(1)),
        "attachment": lambda: patcher.set_attachments("a", 1),
        "injection": lambda: patcher.set_injections("a", []),
        "additional model": lambda: patcher.set_additional_models("a", [model()]),
    }
    for name, change in changes.items():
        yield f"{name} of a MODEL", (patcher, change)


def cannot_tell_cases():
    slots = type("Slots", (), {"__slots__": ("a",)})
    values = {
        "torch's generator": torch.Generator(),
        "numpy's generator": np.random.default_rng(1),
        "Python's generator": random.Random(1),
        "closure over one": closure(random.Random(1)),
        "object with one": Holder(torch.Generator()),
        "iterator": itertools.count(),
        "generator function": (number for number in range(3)),
        "lock": threading.Lock(),
        "object with slots alone": slots(),
        "import of a module that is not loaded": imports_what_is_not_loaded,
        "import of a name that is not there": imports_what_is_not_there,
        "relative import without a package": imports_relatively,
        "import by a name that is made": imports_by_name,
        "globals() in a function within": lambda: lambda: globals()["torch"],
        "network with one": Scaling(torch.Generator()),
    }
    for name, value in values.items():
        try:
            of(value)
        except CannotTellError:
            yield name, True
        else:
            yield name, False


def store_cases():
    """Records and results of 0.4 MB in a store of 1 MB."""
    os.environ[resume.LIMIT_VARIABLE] = "1"
    store, owners = resume.RecordStore(), [Holder(number) for number in range(5)]

    def put(key, owner, megabytes=0.4, *, result=False):
        latent = torch.zeros(int(megabytes * 240_000))
        value = Record(())
        value.begin({"x": latent, "sigmas": torch.ones(2)}, CPU)
        if result:
            value = resume.Result(latent, set(), RandomStates(CPU))
        fingerprint = Fingerprint()
        fingerprint.add_identity(owner)
        store.put(key, fingerprint.refs, RandomStates(CPU), value)
        return list(store._kept)

    put("a", owners[0])
    yield "all that fit", put("b", owners[1])
    store.get("b", RandomStates(CPU))
    yield "the oldest goes", put("c", owners[2], result=True)
    yield "one above the limit", put("d", owners[3], 1.5)
    del owners[1]
    gc.collect()
    yield "its object is gone", list(store._kept)
    yield "a result goes too", [put("d", owners[2]), put("e", owners[3])][-1]
    os.environ[resume.LIMIT_VARIABLE] = "0"
    for key in ("d", "e"):
        store.drop(key)
    yield "the limit is 0", put("e", owners[0])
    os.environ[resume.LIMIT_VARIABLE] = "all"
    try:
        resume.limit_bytes()
    except ValueError as error:
        yield "no number", str(error)


class Device:
    """Stands in for ``torch.xpu`` or ``torch.mps``: a generator whose state is a count."""

    def __init__(self, *takes):
        self.takes, self.state = takes, torch.zeros(1)

    def get_rng_state(self, *device):
        assert device == self.takes
        return self.state.clone()

    def set_rng_state(self, state, *device):
        assert device == self.takes
        self.state = state.clone()


def device_cases():
    """The generator of a device; MPS has one, so that its functions take no device."""
    for kind, takes in (("xpu", (torch.device("xpu", 1),)), ("mps", ())):
        with mock.patch.object(torch, kind, Device(*takes), create=True):
            device = getattr(torch, kind)
            of = torch.device(kind, 1) if kind == "xpu" else torch.device(kind)
            before = RandomStates(of)
            device.state += 1
            after = RandomStates(of)
            yield f"{kind}: what has drawn", sorted(after.differing(before))
            before.restore()
            yield f"{kind}: put back", device.state.item()
            before.with_states({"device"}, after).restore()
            yield f"{kind}: with another's", device.state.item()


def release_cases():
    """What is called to release a model's buffers, on a host that streams weights and on others."""
    for name, streams, prefetches in (("newest", True, True), ("older", True, False), ("CPU", False, True)):
        called = mock.Mock()
        host = types.SimpleNamespace(
            memory_management=types.SimpleNamespace(aimdo_enabled=streams),
            model_management=types.SimpleNamespace(reset_cast_buffers=called.cast_buffers),
        )
        if prefetches:
            host.model_prefetch = types.SimpleNamespace(cleanup_prefetch_queues=called.prefetch_queues)
        vbar = types.SimpleNamespace(vbars_reset_watermark_limits=called.watermarks)
        modules = {"comfy_aimdo": types.ModuleType("comfy_aimdo"), "comfy_aimdo.model_vbar": vbar}
        with mock.patch.object(compat, "comfy", host), mock.patch.dict(sys.modules, modules):
            compat.release_model_buffers()
        yield name, [call[0] for call in called.mock_calls]


def order_cases():
    """In which order experts sample runs, told by the experts of their phases."""

    def order(*runs):
        sigmas = torch.ones(2)
        phases = [[Phase(Expert(name, None, None, [], [], 1.0), sigmas, 0, 1) for name in run] for run in runs]
        return expert_order(phases)

    yield "one run", order(["high", "low"])
    yield "one expert alone comes first", order(["low"], ["high", "low"])
    yield "a prelude without high noise", order(["high", "low"], ["prelude", "low"])


if __name__ == "__main__":
    groups = (trusted_cases, same_cases, changed_cases, cannot_tell_cases, store_cases, device_cases, release_cases)
    found = {cases.__name__: dict(cases()) for cases in (*groups, order_cases)}
    Path(RESULTS).write_text(json.dumps(found))
