"""The command line: ``sgdstab``, also ``python -m sgdstab_fast``."""

import sys

from sgdstab_fast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
