"""Nodes whose models and conditioning have a state: what a run that begins at the hand-over must notice."""

from pathlib import Path

import comfy.model_management
import comfy.patcher_extension
import folder_paths
import torch

CALLS = {"of the module": 0}


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self, executor, *args, **kwargs):
        self.calls += 1
        return executor(*args, **kwargs) * (1 + 0.01 * self.calls)


def counting_in_module(executor, *args, **kwargs):
    CALLS["of the module"] += 1
    return executor(*args, **kwargs) * (1 + 0.01 * CALLS["of the module"])


def counting_in_package(executor, *args, **kwargs):
    from . import CALLS_OF_PACKAGE

    CALLS_OF_PACKAGE.append(1)
    return executor(*args, **kwargs) * (1 + 0.01 * len(CALLS_OF_PACKAGE))


def scaling(factor):
    return lambda executor, *args, **kwargs: executor(*args, **kwargs) * factor


def drawing(generator):
    return lambda executor, *args, **kwargs: executor(*args, **kwargs) * (1 + torch.rand(1, generator=generator).item())


def failing(executor, *args, **kwargs):
    raise RuntimeError("failed as asked")


def interrupting(executor, *args, **kwargs):
    """Interrupt the run at the call whose number stands in a file, as the user would meanwhile."""
    file = Path(folder_paths.get_output_directory()) / "interrupt_at.txt"
    left = int(file.read_text()) - 1 if file.exists() else -1
    if left >= 0:
        file.write_text(str(left))
    if left == 0:
        comfy.model_management.interrupt_current_processing()
    return executor(*args, **kwargs)


class Wrapper:
    """Wrap the prediction in something without a state, or with one of some kind."""

    KINDS = {
        "no state": lambda: scaling(1.01),
        "object": Counting,
        "module": lambda: counting_in_module,
        "import": lambda: counting_in_package,
        "failing": lambda: failing,
        "interrupting": lambda: interrupting,
        "generator": lambda: drawing(torch.Generator().manual_seed(1)),
    }
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "kind": (list(cls.KINDS),)}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    def patch(self, model, kind):
        model = model.clone()
        wrapper = self.KINDS[kind]()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "test", wrapper)
        return (model,)


class ChangeModel:
    """Change a MODEL in place, as no node should: what its first block returns is scaled."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "factor": ("FLOAT", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "change", "test"

    def change(self, model, factor):
        def block(args, extra):
            return {**(out := extra["original_block"](args)), "img": out["img"] * factor}

        model.set_model_patch_replace(block, "dit", "double_block", 0)
        return (model,)


class ChangeConditioning:
    """Change the embedding of a CONDITIONING in place, as no node should."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"conditioning": ("CONDITIONING",), "added": ("FLOAT", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "change", "test"

    def change(self, conditioning, added):
        conditioning[0][0].add_(added)
        return (conditioning,)


NODES = (ChangeConditioning, ChangeModel, Wrapper)
NODE_CLASS_MAPPINGS = {f"WanFLF2VTest{cls.__name__}": cls for cls in NODES}
