#!/usr/bin/env python3
"""The project's commands on any machine: sets up what a command needs, then runs it. Standard library only.

Only syntax that old Pythons can read, so that they reach the message below.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 -- the point of it
    found = ".".join(str(number) for number in sys.version_info[:2])
    sys.exit(f"run.py needs Python 3.10 or newer, this is {found}: run it with a newer one, such as python3.12 run.py")

import argparse

from bootstrap import commands
from bootstrap.comfyui import DEFAULT_VERSION, OLDEST_SUPPORTED
from bootstrap.console import SetupError, say

ENVIRONMENT = """environment variables:
  COMFYUI_PATH      the ComfyUI to use. Without it: the one whose custom_nodes/ this folder lies in, then comfy-cli's
                    default workspace, else ComfyUI {version} is fetched into the cache folder and checked
  WAN_FLF2V_CACHE   the cache folder, instead of the platform's own
  UV_TORCH_BACKEND  which torch uv installs: cpu, cu128, auto, ... (default: what the package index has)
"""


def main() -> int:
    """Read the command line and run the command; return the exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args()
    if arguments.command == "serve" and arguments.workers and not arguments.demo:
        parser.error("--workers goes with --demo: in front of ComfyUIs of your own, use wan-flf2v serve")
    if arguments.command == "serve" and arguments.nats is not None and not arguments.workers:
        parser.error("--nats goes with --workers: it says where the requests of a fleet are kept")
    if rest and arguments.command != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        return _dispatch(arguments, rest)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; run it again to go on")
        return commands.INTERRUPTED


def _dispatch(arguments: argparse.Namespace, rest: "list[str]") -> int:
    if arguments.command == "setup":
        return commands.setup()
    if arguments.command == "demo":
        given = {name: getattr(arguments, name) for name in ("out", "start", "end", "prompt")}
        words = [word for name, value in given.items() if value for word in ("--" + name, value)]
        return commands.demo([*words, "--gallery"] if arguments.gallery else words)
    if arguments.command == "serve":
        return commands.serve(arguments.port, arguments.demo, arguments.workers, nats=arguments.nats)
    if arguments.command == "bench":
        return commands.bench(arguments.name, arguments.json, arguments.rounds, arguments.workers, arguments.store)
    if arguments.command == "train":
        return commands.train(arguments.stage, arguments.minutes, arguments.start_from)
    return commands.test(arguments.hosts, arguments.newest, rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Wan 2.2 first/last-frame video. Every command sets up what it needs, once.",
        epilog=ENVIRONMENT.format(version=DEFAULT_VERSION),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = "setup | demo | serve | test | bench | train"
    add = parser.add_subparsers(dest="command", required=True, metavar=names).add_parser
    known = ", ".join(commands.all_versions())
    add("setup", help="fetch ComfyUI if there is none, make the Python environment", allow_abbrev=False)

    demo = add("demo", help="make a small video with a real ComfyUI on the CPU", allow_abbrev=False)
    demo.add_argument("--out", metavar="DIR", help="where demo.mp4 and demo.png go")
    demo.add_argument("--start", metavar="IMG", help="the first frame (with --end; default: two photographs)")
    demo.add_argument("--end", metavar="IMG", help="the last frame")
    demo.add_argument(
        "--prompt", metavar="TEXT", help="how one becomes the other: circle, slide left, ... (not with --gallery)"
    )
    demo.add_argument("--gallery", action="store_true", help="a video for each word that the models know, side by side")

    serve = add("serve", help="run ComfyUI with the pack in the foreground", allow_abbrev=False)
    serve.add_argument("--port", type=_port, default=8188, metavar="N", help="default 8188")
    serve.add_argument("--demo", action="store_true", help="with the demo's tiny models, on the CPU")
    serve.add_argument(
        "--workers",
        type=_count,
        default=0,
        metavar="N",
        help="with --demo: a fleet on this machine, of N ComfyUIs with a worker beside each, NATS, and a gateway",
    )
    serve.add_argument(
        "--nats",
        type=_nats,
        metavar="URL",
        help="with --workers: the nats-server to use, in place of one that is started here",
    )

    test = add("test", help="run all checks and tests; further arguments go to pytest", allow_abbrev=False)
    where = test.add_mutually_exclusive_group()
    where.add_argument(
        "--hosts",
        type=_versions,
        metavar="V,...",
        help=f"ComfyUI versions to test on: all, or some of {known} (default: the one found, and {OLDEST_SUPPORTED})",
    )
    where.add_argument(
        "--newest",
        action="store_true",
        help="on the ComfyUI found, with the newest Python of this machine and the newest torch and PyAV for it",
    )

    bench = add("bench", help="run a benchmark", allow_abbrev=False)
    bench.add_argument("name", metavar="NAME|all")
    bench.add_argument("--json", metavar="FILE", help="write the figures here too")
    bench.add_argument("--rounds", type=int, metavar="N", help="how often to repeat (default: the bench's own number)")

    bench.add_argument("--store", choices=["sqlite", "jetstream"], default="sqlite", help="of the gateway")
    bench.add_argument("--workers", type=_count, metavar="N", help="how many ComfyUIs, where a bench can have several")

    train = add("train", help="make the demo's models from scratch; goes on where it stopped", allow_abbrev=False)
    train.add_argument("--stage", metavar="STAGE", help="one stage alone (default: all, in their order)")
    train.add_argument("--minutes", type=_minutes, metavar="N", help="stop after this time; the next run goes on")
    train.add_argument(
        "--start-from", metavar="FOLDER", help="begin with these exported models, as demo/models, not from scratch"
    )
    return parser


def _port(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 1 to 65535 is expected")
    return int(text)


def _nats(text: str) -> str:
    if not text.startswith(("nats://", "tls://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not the address of a nats-server: nats://HOST:PORT is expected")
    return text


def _count(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 64):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 64")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: a number of minutes above 0 is expected")
    return minutes


def _versions(text: str) -> "list[str]":
    known = commands.all_versions()
    wanted = known if text == "all" else list(dict.fromkeys(text.split(",")))
    unknown = [version for version in wanted if version not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"ComfyUI {unknown[0]} is not pinned; there are: {', '.join(known)}")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
