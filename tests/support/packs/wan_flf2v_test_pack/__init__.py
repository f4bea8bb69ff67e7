"""Nodes that only the tests use: every module here adds its own ``NODE_CLASS_MAPPINGS``."""

from importlib import import_module
from pkgutil import iter_modules

CALLS_OF_PACKAGE = []  # a state that a function of states.py imports as it runs
NODE_CLASS_MAPPINGS = {}
for _module in iter_modules(__path__):
    NODE_CLASS_MAPPINGS.update(import_module(f".{_module.name}", __name__).NODE_CLASS_MAPPINGS)
