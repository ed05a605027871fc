"""The command line: ``sgdstab``, also ``python -m sgdstab_fast``."""

import sys

from sgdstab_fast.program import status_of


def main() -> int:
    """Run the command line; return the exit status, also where importing it is what fails or is interrupted."""

    def command() -> int:
        from sgdstab_fast.cli.main import main

        return main()

    return status_of(command)


if __name__ == "__main__":
    sys.exit(main())
