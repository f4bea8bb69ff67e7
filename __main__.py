"""The command line ``wan-flf2v``: adds up the commands of ``cli/``."""

from .cli.models import add_commands as add_models_command
from .cli.plan import add_commands as add_plan_command
from .cli.report import add_commands as add_report_command
from .cli.requests import add_commands as add_client_commands
from .cli.run import app
from .cli.serve import add_commands as add_server_commands

add_plan_command(app)
add_report_command(app)
add_client_commands(app)
add_server_commands(app)
add_models_command(app)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the server or the run failed, 2 wrong usage or values, 130 Ctrl-C."""
    app(prog_name="wan-flf2v")  # completion is of this name, however it was called


if __name__ == "__main__":
    main()
