"""The command line ``wan-flf2v``: adds up the commands of ``cli/``."""

import sys

try:
    from .cli.model import add_commands as add_model_commands
    from .cli.models import add_commands as add_models_command
    from .cli.plan import add_commands as add_plan_command
    from .cli.report import add_commands as add_report_command
    from .cli.requests import add_commands as add_client_commands
    from .cli.run import app
    from .cli.serve import add_commands as add_server_commands
    from .cli.store import add_commands as add_store_commands
    from .cli.tokens import add_commands as add_token_commands
    from .cli.trace import add_commands as add_trace_command
except ModuleNotFoundError as error:
    hint = 'pip install "wan-flf2v[client] @ git+<this repository>"'
    print(f"The command line needs {error.name}, which is not installed: {hint}", file=sys.stderr)
    sys.exit(2)

for add_commands in (
    add_plan_command,
    add_report_command,
    add_client_commands,
    add_server_commands,
    add_token_commands,
    add_trace_command,
    add_store_commands,
    add_model_commands,
    add_models_command,
):
    add_commands(app)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the server or the run failed, 2 wrong usage or values, 130 Ctrl-C."""
    app(prog_name="wan-flf2v")  # completion is of this name, however it was called


if __name__ == "__main__":
    main()
