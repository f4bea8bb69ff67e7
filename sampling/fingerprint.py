"""What a value is while this process runs: a digest of its content, and weak references to the objects in it.

Two fingerprints with the same digest are of the same values as long as all references of the first are alive: an object
is told by its identity and its state, anything else by its content. A function of another pack is told with all that
its code names, since it may keep its state there.
"""

from __future__ import annotations

import copy
import dis
import enum
import functools
import hashlib
import importlib.util
import logging
import os
import sys
import sysconfig
import types
import uuid
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_patcher
import folder_paths
import numpy as np
import torch

_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, range, slice, uuid.UUID)
_PLAIN_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_LISTS = (list, tuple, deque)
_DICTS = (dict, OrderedDict, defaultdict, types.MappingProxyType)
_CALLABLES = (types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType)  # a name and what it is bound to
_COMFYUI = Path(comfy.model_patcher.__file__).parents[1]
_PARTS = ("comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras", "nodes.py")
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")  # not "data": it is the prefix, and ComfyUI may lie below
_TRUSTED = (*(_COMFYUI / name for name in _PARTS), *(Path(sysconfig.get_path(name)) for name in _LIBRARIES))
"""Where ComfyUI's own code and libraries lie: all that a run reads there is told."""
_PACKS = "custom_nodes"
_OF_CLASSES = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType)
_MODEL = (
    "force_cast_weights", "hook_mode", "is_clip", "load_device", "patches_uuid", "weight_inplace_update",
    "additional_models", "attachments", "callbacks", "forced_hooks", "injections", "model_options", "object_patches",
    "weight_wrapper_patches", "wrappers",
)  # fmt: skip
"""What the host's ModelPatcher is asked for; all else of it changes as the model is loaded and unloaded."""
_WEIGHTS = ("patches", "hook_patches")
"""Its patches of weights: gigabytes, told by identity."""
_WEIGHTS_OF_NETWORK = ("_parameters", "_buffers", "_modules")
_UNTOLD = ("import_module", "__import__", "eval", "exec", "globals")
"""Names by which code reads what it does not name."""
_MOST_VALUES = 200_000
_MOST_BYTES = 4 * 10**9  # SHA-256 takes seconds for them


class CannotTellError(Exception):
    """A value whose state cannot be seen, such as a random generator; the message is what it is, ``a Generator``."""


class Fingerprint:
    """A fingerprint of all values that are added, in their order."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref] = []
        self.has_code = False
        """Whether there are functions or objects among the values, which may look at more than they are told here."""
        self._hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id in ``_seen`` is given to another object
        self._bytes = 0
        self._is_weights = False

    def copy(self) -> Fingerprint:
        """Return another fingerprint of the same values."""
        other = copy.copy(self)
        other.refs, other._hash = list(self.refs), self._hash.copy()
        other._seen, other._alive = dict(self._seen), list(self._alive)
        return other

    def digest(self) -> str:
        """Return the digest; the values may go then."""
        self._alive.clear()
        self._seen.clear()
        return self._hash.hexdigest()

    def add_identity(self, value: Any) -> None:
        """Add an object that is told by its identity alone.

        Raises:
            CannotTellError: it takes no weak reference.
        """
        try:
            self.refs.append(weakref.ref(value))
        except TypeError:
            raise _cannot_tell(value) from None
        self._write("object", id(value))

    def add(self, value: Any) -> None:
        """Add a value.

        Raises:
            CannotTellError: it, or a part of it, has a state that cannot be seen.
        """
        kind = type(value)
        if kind in _PLAIN or kind in _PLAIN_OF_TORCH or isinstance(value, (enum.Enum, np.generic, np.dtype)):
            self._write(kind.__qualname__, value)
            return
        if id(value) in self._seen:
            self._write("again", self._seen[id(value)])
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        if len(self._seen) > _MOST_VALUES:
            raise CannotTellError(f"more than {_MOST_VALUES} values")
        if isinstance(value, torch.Tensor):
            self._add_tensor(value)
        elif kind is np.ndarray and not value.dtype.hasobject:
            self._write("array", value.dtype, value.shape)
            self._add_bytes(np.ascontiguousarray(value))
        elif kind in _LISTS:
            self._write(kind.__qualname__, len(value))
            self._add_all(value)
        elif kind in _DICTS:
            self._write(kind.__qualname__, len(value))
            self._add_all(part for item in value.items() for part in item)
        elif kind in (set, frozenset) and all(type(item) in _PLAIN for item in value):
            self._write(kind.__qualname__, sorted(map(repr, value)))
        elif isinstance(value, comfy.model_patcher.ModelPatcher):
            self._add_model(value)
        elif isinstance(value, torch.nn.Module):
            self._add_network(value)
        else:
            self._add_code(value)

    def _add_all(self, values: Any) -> None:
        for value in values:
            self.add(value)

    def _write(self, *facts: Any) -> None:
        self._hash.update(f"{facts!r}\n".encode())

    def _add_bytes(self, content: np.ndarray) -> None:
        self._bytes += content.nbytes
        if self._bytes > _MOST_BYTES:
            raise CannotTellError(f"more than {_MOST_BYTES} bytes")
        self._hash.update(content.reshape(-1).view(np.uint8))

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        if self._is_weights or isinstance(tensor, torch.nn.Parameter):
            self.add_identity(tensor)
        elif type(tensor) is not torch.Tensor or tensor.layout != torch.strided or tensor.is_meta:
            raise _cannot_tell(tensor)
        else:
            self._write("tensor", tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            self._add_bytes(content.numpy())

    def _add_model(self, model: Any) -> None:
        """Add a MODEL: the object, what patches it, and the model under it by identity."""
        self.add_identity(model)
        self.add_identity(model.model)
        self.add(model.get_model_object("model_sampling"))
        self._write(model.model_dtype(), getattr(model.model, "manual_cast_dtype", None))
        for name in _MODEL:
            self._write(name)
            self.add(getattr(model, name, None))
        before, self._is_weights = self._is_weights, True
        for name in _WEIGHTS:
            self._write(name)
            self.add(getattr(model, name, None))
        self._is_weights = before

    def _add_network(self, network: torch.nn.Module) -> None:
        """Add a network by its identity, and of a pack's its class and all but its weights, which the host moves.

        ComfyUI's own networks with weights are not looked into: what packs put there are patches, which are told.
        """
        self.add_identity(network)
        cls, attributes = type(network), vars(network)
        is_trusted_class = _is_trusted_module(sys.modules.get(cls.__module__))
        if not is_trusted_class:
            self.add(cls)
        if next(network.parameters(), None) is None:
            self.add(attributes)
            return
        if not is_trusted_class:
            self.add({name: value for name, value in attributes.items() if name not in _WEIGHTS_OF_NETWORK})
        if cls.__module__.partition(".")[0] not in _PARTS:
            self._add_all(network.children())

    def _add_code(self, value: Any) -> None:
        """Add a function, a class, a module or an object."""
        if isinstance(value, (types.ModuleType, logging.Logger)):
            self._write("module", value.__name__ if isinstance(value, types.ModuleType) else value.name)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, _CALLABLES):
            self.has_code = True
            self._write("function", value.__name__)
            self.add(value.__self__)
            self.add(getattr(value, "__func__", None))
        elif isinstance(value, functools.partial):
            self._add_all((value.func, value.args, value.keywords))
        elif isinstance(value, (staticmethod, classmethod)):
            self.add(value.__func__)
        elif isinstance(value, property):
            self._add_all((value.fget, value.fset))
        elif isinstance(value, type):
            self._add_class(value)
        else:
            self._add_object(value)

    def _add_function(self, function: Any) -> None:
        self.has_code = True
        self._write("function", function.__module__, function.__qualname__)
        self.add_identity(function.__code__)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # an empty cell
                self._write("empty")
        self._add_all((function.__defaults__, function.__kwdefaults__, vars(function)))
        if not is_trusted(function.__code__.co_filename):
            codes, space, done = list(_codes(function.__code__)), function.__globals__, set[int]()
            names = {name for code in codes for name in code.co_names}
            if untold := names.intersection(_UNTOLD):
                raise CannotTellError(f"a function that calls {min(untold)}")
            imported = [module for code in codes for module in _imported(code, space.get("__package__"))]
            for one in (space, *map(vars, imported)):
                self._add_named(one, names, done)

    def _add_named(self, space: dict[str, Any], names: set[str], done: set[int]) -> None:
        """Add what code of these names may read in a module's ``space``, and in the modules that it names there."""
        if id(space) in done:
            return
        done.add(id(space))
        for name in sorted(names & space.keys()):
            value = space[name]
            self._write("global", name)
            self.add(value)
            if isinstance(value, types.ModuleType) and not _is_trusted_module(value):
                self._add_named(vars(value), names, done)

    def _add_class(self, cls: type) -> None:
        self._write("class", cls.__module__, cls.__qualname__)
        self.add_identity(cls)
        if not cls.__flags__ & _HEAP_TYPE or _is_trusted_module(sys.modules.get(cls.__module__)):
            return
        for base in cls.__bases__:
            self.add(base)
        for name, value in vars(cls).items():
            if name not in ("__weakref__", "__dict__", "__doc__") and not isinstance(value, _OF_CLASSES):
                self._write(name)
                self.add(value)

    def _add_object(self, value: Any) -> None:
        """Add an object by its identity, and its state as ``copy`` would take it, where that is Python's own way."""
        self.has_code |= not self._is_weights
        self.add_identity(value)
        cls = type(value)
        own_way = ("__reduce__", "__reduce_ex__", "__getstate__")
        if any(getattr(cls, name, None) is not getattr(object, name, None) for name in own_way):
            raise _cannot_tell(value)
        try:
            _, *parts = object.__reduce_ex__(value, 2)
        except TypeError:  # it has a state in C
            raise _cannot_tell(value) from None
        self._add_all(list(part) if isinstance(part, Iterator) else part for part in parts)


_HEAP_TYPE = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE: no class of C


@functools.cache
def is_trusted(file: str) -> bool:
    """Whether code of this file is ComfyUI's own or a library's, and no pack's: no file below a folder of packs is."""
    path = Path(os.path.abspath(file))  # noqa: PTH100 -- resolve() would follow a link among the packs out of there
    if any(path.is_relative_to(folder) for folder in folder_paths.get_folder_paths(_PACKS)):
        return False
    return any(path.is_relative_to(root) and _PACKS not in path.relative_to(root).parts for root in _TRUSTED)


def _is_trusted_module(module: types.ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    return is_trusted(file) if file else module is not None and module.__name__ in sys.builtin_module_names


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Return a function's code, and that of the functions that it makes."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


def _imported(code: types.CodeType, package: str | None) -> Iterator[types.ModuleType]:
    """Return the modules of packs that the code imports; it stands in a module of ``package``.

    Raises:
        CannotTellError: a module is not loaded yet, or has not got the name that comes from there.
    """
    if dis.opmap["IMPORT_NAME"] not in code.co_code[::2]:
        return  # the usual case, and dis is slow
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for level, names, step in zip(steps, steps[1:], steps[2:], strict=False):
        if step.opname != "IMPORT_NAME":
            continue
        try:
            name = importlib.util.resolve_name("." * level.argval + step.argval, package)
        except ImportError:
            raise CannotTellError(f"an import of {step.argval}") from None
        module = sys.modules.get(name)
        if _is_trusted_module(module):
            continue
        if not isinstance(module, types.ModuleType) or not vars(module).keys() >= set(names.argval or ()):
            raise CannotTellError(f"an import of {name}")
        yield module if names.argval else sys.modules[name.partition(".")[0]]


def _cannot_tell(value: Any) -> CannotTellError:
    return CannotTellError(f"a {type(value).__qualname__}")
