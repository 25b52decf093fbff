"""The `cyclesep` command: arguments, help, shell completion, info screens, and one module per job in `cli/jobs`."""
