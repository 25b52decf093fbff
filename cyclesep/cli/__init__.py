"""The `cyclesep` command: parsing, help, shell completion, and one module per job."""
