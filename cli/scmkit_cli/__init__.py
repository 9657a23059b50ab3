"""The `scmkit` command: one file per subcommand, heavy imports inside the commands."""
