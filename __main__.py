"""``wan-flf2v`` and ``python -m wan_flf2v``: the client's commands and the server's on one command line."""

from .client.cli import app
from .client.cli_hosted import add_commands as add_client_commands
from .client.cli_plan import add_commands as add_plan_command
from .hosted.cli import add_commands as add_server_commands

add_plan_command(app)
add_client_commands(app)
add_server_commands(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
