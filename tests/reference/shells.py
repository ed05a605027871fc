"""The command line as a shell runs it, in a folder with a matrix."""

import os
import subprocess
import sys

SHORT = ["--learning-rate", "0.3", "--max-steps", "20000", "--rtol", "0.1", "--seed", "1"]
# Output that is written at once fails earlier than output that is kept until the end.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
MODULE = f"exec '{sys.executable}' -m sgdstab_fast"


def shell(command, **environment):
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**BUFFERED, **environment}, check=False
    )
    return done.returncode, done.stderr
