"""``python3 run.py train``: makes the demo's models, stage by stage; goes on where it stopped."""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

VAE_STAGES = ("vae-images", "vae-clips", "vae-decoder")
STAGES = ("pictures", *VAE_STAGES, "latents", "high", "low", "export")
SEED = 1


def main() -> int:
    """Run the stages asked for; returns the exit code (0 done or stopped by --minutes, 1 failed, 130 Ctrl-C)."""
    parser = argparse.ArgumentParser(prog="run.py train", description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--start-from", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(args.comfyui))
    sys.argv = [sys.argv[0], "--use-pytorch-cross-attention"]  # the attention that has a gradient
    import torch

    if not torch.cuda.is_available():
        sys.argv.append("--cpu")
    import comfy.options

    comfy.options.enable_args_parsing()
    from filelock import FileLock, Timeout

    from .latents import OtherEncoderError
    from .pictures import GatherError

    args.work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(args.work / "training.lock", timeout=0):
            seed = choose_seed(args.work, args.start_from)
            training = Training(args.comfyui, args.work, time.monotonic() + args.minutes * 60, args.start_from, seed)
            for stage in (args.stage,) if args.stage else STAGES:
                if not training.run(stage):
                    _say("The time is up. Run it again to go on.")
                    return 0
    except Timeout:
        _say(f"another training runs in {args.work}: wait for it or stop it")
        return 1
    except (GatherError, OtherBeginningError, OtherEncoderError, FileNotFoundError, ImportError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Stopped. Run it again to go on from the last checkpoint.")
        return 130
    return 0


class OtherBeginningError(Exception):
    """A training goes on with another ``--start-from`` than it began with; the message is for people."""


def choose_seed(work: Path, start_from: Path | None) -> int:
    """Return the seed of the training in ``work``, and note it there.

    One that begins with models has another than theirs, so that it draws other pictures than they have seen.

    Raises:
        FileNotFoundError: there are no models in ``start_from``.
        OtherBeginningError: the training in ``work`` has another seed.
    """
    from .export import FILES, model_file

    seed = SEED
    if start_from is not None:
        seed = zlib.crc32(b"".join(model_file(start_from, name).read_bytes() for name in FILES))
    note = work / "seed.txt"
    if note.exists() and note.read_text("utf-8") != str(seed):
        how = "from scratch" if note.read_text("utf-8") == str(SEED) else "with other models"
        raise OtherBeginningError(
            f"the training in {work} was begun {how}: go on as it was begun (--start-from), or remove the folder"
        )
    note.write_text(str(seed), "utf-8")
    return seed


class Training:
    """The stages, each with its folder below ``work``; each loads what the stages before it left there."""

    def __init__(
        self, comfyui: Path, work: Path, deadline: float, start_from: Path | None = None, seed: int = SEED
    ) -> None:
        self._comfyui = comfyui
        self._work = work
        self._deadline = deadline
        self._start_from = start_from
        self._seed = seed

    def run(self, stage: str) -> bool:
        """Run one stage, or what is left of it; return whether it is finished."""
        _say(f"stage {stage}")
        stages: dict[str, Callable[[], bool]] = {
            "pictures": self._gather,
            "vae-images": self._vae_images,
            "vae-clips": partial(self._vae_on_clips, "vae-clips"),
            "vae-decoder": partial(self._vae_on_clips, "vae-decoder"),
            "latents": self._make_latents,
            "high": partial(self._expert, True),
            "low": partial(self._expert, False),
            "export": self._export,
        }
        return stages[stage]()

    @cached_property
    def _machine(self) -> Any:
        from .machine import choose_machine

        return choose_machine(self._work / "machine.json")

    @cached_property
    def _photographs(self) -> list[Any]:
        from .pictures import load

        return load(self._work / "pictures", held_out=False)

    @cached_property
    def _held_out(self) -> list[Any]:
        from .pictures import load

        return load(self._work / "pictures", held_out=True)

    @property
    def _same_latents(self) -> bool:
        """Whether the latents are those of the models to start from, which the experts there know."""
        return self._start_from is not None and not (self._work / "vae-clips").exists()

    def _gather(self) -> bool:
        from .pictures import gather

        gather(self._work / "pictures", _say)
        return True

    def _vae_images(self) -> bool:
        from . import vae

        if self._start_from:
            _say(f"left out: the VAE begins with that of {self._start_from}")
            return True

        def loss(model: Callable[..., Any], generator: Any) -> Any:
            batch = vae.picture_batch(self._photographs, 16, generator)
            return vae.reconstruction_loss(model, batch, generator, self._machine)

        evaluate = partial(vae.held_out_psnr, held_out=self._held_out)
        return self._train("vae-images", vae.new_vae(SEED), loss, vae.IMAGES, evaluate)

    def _vae_on_clips(self, stage: str) -> bool:
        from . import vae

        def loss(model: Callable[..., Any], generator: Any) -> Any:
            batch = vae.mixed_batch(self._photographs, generator)
            return vae.reconstruction_loss(model, batch, generator, self._machine)

        def evaluate(module: Any) -> dict[str, float]:
            return {**vae.held_out_psnr(module, self._held_out), **vae.held_out_clips(module, self._held_out)}

        if stage == "vae-decoder":
            return self._train(stage, vae.freeze_encoder(self._vae("vae-clips")), loss, vae.DECODER, evaluate)
        return self._train(stage, self._vae("vae-images"), loss, vae.CLIPS, evaluate)

    def _make_latents(self) -> bool:
        from . import export, latents

        module = self._vae("vae-clips")
        folder = self._work / "latents"
        statistics = folder / "statistics.pt"
        if not statistics.exists():
            found = export.trained_statistics() if self._same_latents else latents.statistics(module, self._photographs)
            latents.save_statistics(statistics, module, *found)
        mean, deviation = latents.load_statistics(statistics, module)
        encoder = latents.Encoder(module.to(self._machine.device, self._machine.dtype), mean, deviation)
        done = latents.make_pairs(
            encoder, self._photographs, folder, latents.PAIRS, self._seed, self._time_is_left, _say
        )
        return done == latents.PAIRS

    def _expert(self, high_noise: bool) -> bool:
        from . import experts, export, latents, text
        from .trainer import Machine

        examples = latents.Examples(self._work / "latents", latents.PAIRS)
        prompts = text.Prompts(text.demo_clip(self._comfyui, self._work / "models"))

        def loss(model: Callable[..., Any], generator: Any) -> Any:
            return experts.velocity_loss(model, examples, prompts, high_noise, generator, self._machine)

        name = "high" if high_noise else "low"
        expert = experts.Expert(SEED)
        if self._start_from:
            expert.model.load_state_dict(export.load_weights(self._start_from, name))
        # Autocast chooses the dtypes of an expert, so its weights stay in float32.
        return self._train(name, expert, loss, experts.SCHEDULE, machine=Machine(self._machine.device))

    def _export(self) -> bool:
        from . import curves, experts, export, latents, pictures

        wan_vae = self._vae("vae-decoder")
        kept = self._work / "latents" / "statistics.pt"
        new = kept.exists() or not self._same_latents
        statistics = latents.load_statistics(kept, wan_vae) if new else export.trained_statistics()
        export.rescale_latent(wan_vae.vae, *statistics, *export.host_statistics())
        export.save_half(wan_vae.vae.state_dict(), self._work / "export" / export.FILES["vae"])
        for name in ("high", "low"):
            expert = experts.Expert(SEED)
            if self._same_latents and not (self._work / name).exists():
                expert.model.load_state_dict(export.load_weights(self._start_from, name))
            else:
                expert.load_state_dict(self._weights(name))
            export.save_half(expert.model.state_dict(), self._work / "export" / export.FILES[name], export.TITLES[name])
        for log in sorted(self._work.glob("*/log.jsonl")):
            curves.plot(log, self._work / "export" / f"{log.parent.name}.png")
        (self._work / "export" / "pictures.md").write_text(pictures.attribution() + "\n", "utf-8")
        _say(f"exported to {self._work / 'export'}")
        return True

    def _train(
        self, name: str, module: Any, loss: Any, schedule: Any, evaluate: Any = None, machine: Any = None
    ) -> bool:
        from .trainer import Trainer

        trainer = Trainer(module, loss, schedule, self._work / name, self._seed, machine or self._machine, evaluate)
        if trainer.resume():
            _say(f"going on from step {trainer.step} of {schedule.steps}")
        trainer.run(self._deadline - time.monotonic(), _say)
        return trainer.finished

    def _vae(self, stage: str) -> Any:
        """Return the VAE that ``stage`` left; the one to start from if neither it nor a stage before it was run."""
        from . import export, vae

        run = [name for name in VAE_STAGES[: VAE_STAGES.index(stage) + 1] if (self._work / name).exists()]
        if self._start_from and not run:
            return export.load_vae(self._start_from, vae.new_vae(SEED))
        module = vae.new_vae(SEED)
        module.load_state_dict(self._weights(stage))
        return module

    def _weights(self, stage: str) -> dict[str, Any]:
        import torch

        file = self._work / stage / "checkpoint.pt"
        if not file.exists():
            raise FileNotFoundError(f"the stage {stage} has left nothing in {self._work}: run it first")
        state = torch.load(file, "cpu", weights_only=True)
        if state["step"] < state["steps"]:
            raise FileNotFoundError(f"the stage {stage} stands at step {state['step']} of {state['steps']}: finish it")
        return state["weights"]

    def _time_is_left(self) -> bool:
        return time.monotonic() < self._deadline


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
