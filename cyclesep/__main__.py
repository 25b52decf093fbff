"""`python -m cyclesep`, the same as the `cyclesep` command."""

from cyclesep.cli.main import main

if __name__ == "__main__":
    main()
