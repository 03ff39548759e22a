"""The command `meterd`. Each subcommand is imported when it is asked for, so that `meterd --help` comes at once."""

from __future__ import annotations

import importlib
import importlib.metadata

import click

# Name, where it is, and what `meterd --help` says of it, in the order in which a newcomer meets them.
_COMMANDS = {
    "dev": ("meterd.cli.dev", "dev", "Run everything on this machine, with a demo tenant."),
    "serve": ("meterd.cli.serve", "serve", "Serve gRPC, and run the workers."),
    "worker": ("meterd.cli.serve", "worker", "Run the workers apart from the server."),
    "health": ("meterd.cli.health", "health", "Ask a running server whether it serves."),
    "migrate": ("meterd.cli.migrate", "migrate", "Create or update the tables in Postgres."),
    "keys": ("meterd.cli.keys", "keys", "Create, list and revoke API keys."),
    "catalog": ("meterd.cli.catalogs", "catalog", "Apply and show what you sell."),
    "account": ("meterd.cli.accounts", "account", "Create accounts and look into them."),
    "grant": ("meterd.cli.accounts", "grant", "Give an account credits."),
    "balance": ("meterd.cli.accounts", "balance", "Show an account's balance."),
    "webhooks": ("meterd.cli.webhooks", "webhooks", "Tell other services what happens."),
    "report": ("meterd.cli.reports", "report", "Add up usage, revenue and burn."),
    "prices": ("meterd.cli.prices", "prices", "Look into prices, compare and check them."),
    "replay": ("meterd.cli.replay", "replay", "Play an LLM trace through a running server."),
    "verify": ("meterd.cli.verify", "verify", "Prove that nothing was lost, doubled or made up."),
    "recover": ("meterd.cli.recover", "recover", "Rebuild from Postgres what Redis has lost."),
    "doctor": ("meterd.cli.doctor", "doctor", "Check the settings of Redis and Postgres."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("meterd"), prog_name="meterd")
def main() -> None:
    """A gRPC metering sidecar for AI backends: reserve credits before a model call, commit the real usage after it."""


if __name__ == "__main__":
    main(prog_name="meterd")
