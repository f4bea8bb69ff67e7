"""``wan-flf2v`` and ``python -m wan_flf2v``: the client's commands and the server's on one command line."""

from .cli.plan import add_commands as add_plan_command
from .cli.requests import add_commands as add_client_commands
from .cli.run import app
from .cli.serve import add_commands as add_server_commands

add_plan_command(app)
add_client_commands(app)
add_server_commands(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
