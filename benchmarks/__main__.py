"""Runs benches and writes down what they measured, on which machine, with which versions."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from datetime import datetime, timezone
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from ._figures import Figures, Options

_FOLDER = Path(__file__).parent
_WITH_STORE = ("crash", "crash_workers", "fleet", "fleet_load", "fleet_waits")


def main() -> int:
    """Run one bench or all; returns 1 if a figure is beyond its limit."""
    names = sorted(path.stem for path in _FOLDER.glob("*.py") if not path.name.startswith("_"))
    args = _parse_arguments(names)
    given = {"rounds": args.rounds, "json": args.json, "workers": args.workers, "store": args.store}
    options = Options(args.comfyui, **given)
    if args.store != "sqlite" and args.name not in _WITH_STORE:
        print(f"--store {args.store} is for {', '.join(_WITH_STORE)}", file=sys.stderr)
        return 2
    records: list[dict[str, Any]] = []
    good = True
    for name in names if args.name == "all" else [args.name]:
        try:
            figures: Figures = import_module(f".{name}", __package__).run(options)
        except SystemExit as error:  # what this bench needs is missing; the others' figures stay
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            good = False
            continue
        good = _show(name, figures) and good
        records.append(_record(name if args.store == "sqlite" else f"{name} on {args.store}", figures, args.comfyui))
        if args.json is not None:
            content = records if args.name == "all" else records[0]
            args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if good else 1


def _parse_arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py bench", description="Run a benchmark.")
    parser.add_argument("name", choices=["all", *names])
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: the bench's own number")
    parser.add_argument("--store", choices=["sqlite", "jetstream"], default="sqlite", help="of the gateway")
    parser.add_argument("--workers", type=int, metavar="N", help="how many ComfyUIs, where a bench can have several")
    args = parser.parse_args()
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if args.workers is not None and args.workers < 1:
        parser.error("--workers must be 1 or more")
    return args


def _show(name: str, figures: Figures) -> bool:
    for key, figure in figures.items():
        fact = figure.as_json()
        verdict = "" if fact["limit"] is None else f"  {'ok' if figure.holds() else 'NOT'} {fact['limit']}"
        spread = f"{figure.min:g} to {figure.max:g} in {figure.rounds} rounds"
        print(f"{name} {key}: {figure.value:g} {figure.unit} ({spread}){verdict}", flush=True)
    return all(figure.holds() for figure in figures.values())


def _record(name: str, figures: Figures, comfyui: Path) -> dict[str, Any]:
    return {
        "name": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(comfyui),
        "figures": {key: figure.as_json() for key, figure in figures.items()},
    }


def _machine() -> dict[str, Any]:
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {"system": platform.platform(), "processor": _processor(), "cpus": cpus}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _versions(comfyui: Path) -> dict[str, str]:
    source = comfyui / "comfyui_version.py"
    found = re.search(r'__version__ = "(.+?)"', source.read_text(encoding="utf-8")) if source.exists() else None
    names = ("wan-flf2v", "torch", "aiohttp", "av")
    installed = {name: metadata.version(name) for name in names}
    return {"python": platform.python_version(), "comfyui": found[1] if found else "unknown", **installed}


if __name__ == "__main__":
    sys.exit(main())
