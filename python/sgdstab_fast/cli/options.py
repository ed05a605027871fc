"""Every option of the commands: what it takes, and what its help says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgdstab_fast.cli import jobs
from sgdstab_fast.cli.arguments import number, whole_number
from sgdstab_fast.systems.sampling import SAMPLINGS

_RATE = "learning rate, as of torch.optim.SGD"

# A suffix after / tells options with one flag apart.
OPTIONS: dict[str, dict[str, Any]] = {
    "gram": {
        "nargs": "?",
        "type": Path,
        "metavar": "GRAM",
        "help": ".npy or .npz file; the embedded example if left out",
    },
    "kernels": {
        "nargs": "+",
        "type": Path,
        "metavar": "KERNEL",
        "help": "files of gram.Kernel.save, or a directory of them, each with its step as the last number of its name; "
        "or one .npz file with arrays steps, matrices and perhaps residuals, losses, learning_rates and batch_sizes",
    },
    "--quantities": {
        "default": "all",
        "metavar": "Q,..",
        "help": "what to measure: all, economy (no simulation), or a list",
    },
    "--seconds": {"type": number, "metavar": "S", "help": "seconds that simulations of a point may take, about"},
    "--learning-rate/required": {"type": number, "metavar": "ETA", "required": True, "help": _RATE},
    "--key": {"metavar": "NAME", "help": "which array of a .npz file; needed if it holds several"},
    "--rtol": {
        "metavar": "X",
        "type": number,
        "help": "standard error to reach, over the value, such as 0.01 for 1%% (default: %(default)g)",
    },
    "--max-steps": {
        "metavar": "N",
        "type": number,
        "help": "steps of SGD to take at the most, of all chains together (default: %(default)g)",
    },
    "--rtol/own": {
        "metavar": "X",
        "type": number,
        "help": "standard error to reach, over the value (default: 2e-5, where that takes long 1e-3)",
    },
    "--max-steps/own": {
        "metavar": "N",
        "type": number,
        "help": "steps of SGD to take at the most, of all chains together (default: 2e8, with slow directions 1e10)",
    },
    "--seed": {
        "type": whole_number,
        "metavar": "N",
        "help": "seed of the random numbers: the same one gives the same output (default: a new one)",
    },
    "--threads": {"type": whole_number, "metavar": "N", "help": "threads to run on (default: as many as processors)"},
    "--learning-rate": {"type": number, "metavar": "ETA", "help": f"{_RATE}; required with GRAM"},
    "--learning-rate/asked": {
        "type": number,
        "metavar": "ETA",
        "help": f"{_RATE}, of which the table says what allows it",
    },
    "--learning-rates": {
        "required": True,
        "metavar": "LOW:HIGH:COUNT",
        "help": "as of torch.optim.SGD: equally spaced, or LOW:HIGH:COUNT:log for equal ratios, or a list: 0.1,0.2,0.5",
    },
    "--p": {"metavar": "LOW:HIGH:COUNT", "help": "orders, or a list: -1,1,3 (default: %(default)s)"},
    "--p/none": {"metavar": "P,..", "help": "orders of moments, seconds each, or none (default: %(default)s)"},
    "--p/more": {"metavar": "P,..", "help": "orders of moments too, as a list: 1,4 or -1,.5"},
    "--output": {
        "type": Path,
        "metavar": "PATH",
        "help": "file of the plot, .png, .pdf, .svg or .jpg (default: %(default)s)",
    },
    "--output/several": {
        "type": Path,
        "metavar": "PATH",
        "help": "file of the plots, .png, .pdf, .svg or .jpg (default: %(default)s)",
    },
    "--csv": {"type": Path, "metavar": "PATH", "help": ".csv file to write the numbers to, a row for each {row}"},
    "--json": {"action": "store_true", "help": "print JSON instead of a table; what is unknown is null"},
    "--exponents": {
        "type": whole_number,
        "metavar": "K",
        "help": "how many exponents (default: all up to rank 512, else 32)",
    },
    "--batch-size": {"type": whole_number, "default": 1, "metavar": "B", "help": "examples per step (default: 1)"},
    "--batch-size/several": {
        "default": "1",
        "metavar": "B,..",
        "help": "examples per step, as a list or LOW:HIGH: 1,2,4 (default: 1)",
    },
    "--sampling": {
        "choices": SAMPLINGS,
        "metavar": "HOW",
        "default": "iid",
        "help": "how batches are drawn: %(choices)s (default: %(default)s)",
    },
    "--sampling/independent": {
        "choices": SAMPLINGS[:2],
        "metavar": "HOW",
        "default": "iid",
        "help": "how batches are drawn: %(choices)s (default: %(default)s)",
    },
    "--momentum": {
        "type": number,
        "default": 0.0,
        "metavar": "B",
        "help": "heavy-ball momentum, from 0 to below 1 (default: 0)",
    },
    "--momentum/several": {
        "default": "0",
        "metavar": "B,..",
        "help": "heavy-ball momentum, as a list: 0,0.9 (default: 0)",
    },
    "--nesterov": {"action": "store_true", "help": "Nesterov momentum instead"},
    "--groups": {
        "metavar": "M",
        "help": "rows of K per example, consecutive; or a .npy file with a label for each row",
    },
    "--scale": {
        "type": number,
        "default": 1.0,
        "metavar": "C",
        "help": "curvature of the loss: 1 for (f - y)^2 / 2, 2 for (f - y)^2 (default: %(default)g)",
    },
    **jobs.OPTIONS,
}
