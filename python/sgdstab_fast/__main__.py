"""The command line: ``sgdstab``, also ``python -m sgdstab_fast``."""

import os
import sys

from sgdstab_fast.program import status_of


def main() -> int:
    """Run the command line; return the exit status, also where importing it is what fails or is interrupted."""

    def command() -> int:
        from sgdstab_fast.cli.main import main

        return main()

    status = status_of(command)
    if is_anything_left_behind():
        # Its threads would be ended in the middle of the core's code, which aborts the process.
        sys.stdout.flush()
        os._exit(status)
    return status


def is_anything_left_behind() -> bool:
    """Say whether Ctrl-C has left work behind; nothing has if the package was not imported."""
    interruption = sys.modules.get("sgdstab_fast.results.interruption")
    return interruption is not None and bool(interruption.is_anything_left_behind())


if __name__ == "__main__":
    sys.exit(main())
