"""Plans: how K is computed within an amount of memory, known before it is.

Features of all N examples (`features`) are what K is made of. Where those of all layers are more than the memory
allows, the model is evaluated again for every share of them that fits: a share is some units (columns of the Jacobian,
outputs of a linear layer) of some layers. That takes as many evaluations as tiles of examples would, every share adds
one symmetric product of all of K, and no example is evaluated more than once a share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sgdstab_fast import validation
from sgdstab_fast.gram.features import LARGEST_PANEL, MOST_ROWS
from sgdstab_fast.memory import BYTES_OF_DOUBLE, text_of

WORKSPACE = 24 * 2**20  # of libraries, bytes
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for base, ending in ((1024, "iB"), (1000, "B"))
}
_ROWS_OF_FILE = 2 * MOST_ROWS  # examples whose rows of K are in memory too, until they are written
_PANELS = 4  # temporary arrays of a symmetric product
_MOST_OF_CHUNKS = 0.3  # of the memory that is left
_LARGEST_CHUNK = 512  # examples; more make no product faster
_CACHED = 16 * 2**20  # bytes of a chunk that are quickly there again and again
_REUSED = 4  # times the weights that a chunk is at least, so that reading these does not count


@dataclass(frozen=True)
class LayerPlan:
    """How a layer's part of K is computed."""

    name: str
    """As the model names it."""
    kind: str
    """What it is: linear, convolution, embedding, normalisation, or other."""
    method: str
    """"factors": from inputs and derivatives, without gradients; "gradients": from these, formed of inputs and
    derivatives; "vmap" or "one by one": from gradients by automatic differentiation."""
    n_parameters: int
    """That K is of."""
    units: int = field(repr=False)
    """Into which it can be cut."""
    numbers: int = field(repr=False)
    """Kept of an example, whatever the number of units."""
    numbers_per_unit: int = field(repr=False)
    """Kept of an example for every unit."""
    multiplications: float = 0.0
    """Of its symmetric products."""
    chunk_numbers: int = field(default=0, repr=False)
    """That an example takes while it is evaluated."""


@dataclass(frozen=True)
class Portion:
    """Some units of a layer."""

    layer: int
    units: slice


@dataclass(frozen=True)
class Plan:
    """What computing K takes: `print` shows it as a table."""

    n_examples: int
    """N."""
    n_outputs: int
    """m; K is N m x N m."""
    layers: tuple[LayerPlan, ...]
    """How each layer's part is computed."""
    passes: tuple[tuple[Portion, ...], ...] = field(repr=False)
    """The units whose features are kept at the same time; all examples are evaluated once for each."""
    chunk: int
    """Examples evaluated together."""
    peak_bytes: int
    """Memory that it takes at most, K included."""
    memory: int
    """Memory that it may take."""
    itemsize: int = field(default=BYTES_OF_DOUBLE, repr=False)
    """Bytes of a number that is kept."""

    @property
    def n_passes(self) -> int:
        """How often every example is evaluated: one forward pass, and a backward pass for each output."""
        return len(self.passes)

    @property
    def n_parameters(self) -> int:
        """Parameters that K is of."""
        return sum(layer.n_parameters for layer in self.layers)

    @property
    def multiplications(self) -> float:
        """Multiplications of the symmetric products."""
        return sum(layer.multiplications for layer in self.layers)

    def __str__(self) -> str:
        titles = ("layer", "kind", "parameters", "method", "multiplications", "kept")
        lines = [
            (
                layer.name,
                layer.kind,
                f"{layer.n_parameters:,}",
                layer.method,
                f"{layer.multiplications:.2g}",
                text_of(self.itemsize * self.n_examples * (layer.numbers + layer.units * layer.numbers_per_unit)),
            )
            for layer in self.layers
        ]
        total = ("all", "", f"{self.n_parameters:,}", "", f"{self.multiplications:.2g}", "")
        widths = [max(map(len, column)) for column in zip(titles, *lines, total, strict=True)]
        left = (True, True, False, True, False, False)
        rows = [
            "  ".join(
                text.ljust(width) if is_left else text.rjust(width)
                for text, width, is_left in zip(row, widths, left, strict=True)
            ).rstrip()
            for row in (titles, *lines, total)
        ]
        evaluations = "once" if self.n_passes == 1 else f"{self.n_passes} times"
        return "\n".join(
            [
                f"K of {self.n_examples} examples with {self.n_outputs} output{'s' * (self.n_outputs > 1)}: "
                f"{self.n_examples * self.n_outputs} x {self.n_examples * self.n_outputs}",
                *rows,
                f"every example evaluated {evaluations}, {self.chunk} at a time; at most {text_of(self.peak_bytes)} of "
                f"the {text_of(self.memory)} allowed",
            ]
        )


def planned(
    layers: Sequence[LayerPlan],
    n_examples: int,
    n_outputs: int,
    memory: int,
    *,
    itemsize: int = BYTES_OF_DOUBLE,
    activations: int = 0,
    weights: int = 0,
    others: int = 0,
    at_the_start: int = 0,
    in_file: bool = False,
) -> Plan:
    """Return how to stay within the memory; refuse an amount that is too small, with the least that would do.

    `activations` and the layers' `chunk_numbers` are what an example takes while it is evaluated, `weights` what
    parameters take, `others` what is there all the time, `at_the_start` what is needed before features are; all in
    bytes but for `chunk_numbers`.
    """
    n_rows = n_examples * n_outputs
    kept = BYTES_OF_DOUBLE * n_rows * (min(n_rows, _ROWS_OF_FILE * n_outputs) if in_file else n_rows)
    fixed = kept + others + WORKSPACE + _PANELS * BYTES_OF_DOUBLE * LARGEST_PANEL
    per_example = activations + itemsize * sum(layer.chunk_numbers for layer in layers)
    needs = [n_examples * itemsize * (layer.numbers + layer.numbers_per_unit) for layer in layers]
    all_features = n_examples * itemsize * sum(layer.numbers + layer.units * layer.numbers_per_unit for layer in layers)
    most = max(range(len(layers)), key=needs.__getitem__, default=0)
    least = fixed + max(per_example + max(needs, default=0), at_the_start)
    if memory < least:
        which = layers[most].name if layers else "the model"
        raise ValueError(
            f"memory must be at least {text_of(least * 1.01)}, not {text_of(memory)}: K takes {text_of(kept)}, "
            f"parameters and workspace {text_of(fixed - kept)}, an example {text_of(per_example)}, and one unit of "
            f"layer {which!r} {text_of(max(needs, default=0))}"
            + ("; out='k.npy' keeps K in a file" if kept > memory / 2 and not in_file else "")
        )
    left = memory - fixed
    for_chunks = max(per_example, min(left - max(needs, default=0), int(_MOST_OF_CHUNKS * left)))
    useful = max(per_example, min(for_chunks, _CACHED + _REUSED * weights))
    chunk = max(1, min(n_examples, _LARGEST_CHUNK, useful // max(per_example, 1)))
    room = left - chunk * per_example
    passes = _packed(layers, room // (n_examples * itemsize))
    features = all_features if len(passes) == 1 else room
    peak = fixed + max(features + chunk * per_example, at_the_start)
    return Plan(n_examples, n_outputs, tuple(layers), passes, chunk, peak, memory, itemsize)


def _packed(layers: Sequence[LayerPlan], room: int) -> tuple[tuple[Portion, ...], ...]:
    """Return shares of the layers' units, each of which takes at most so many numbers of an example."""
    passes: list[list[Portion]] = [[]]
    free = room
    for index, layer in enumerate(layers):
        first = 0
        while first < layer.units:
            count = min(layer.units - first, (free - layer.numbers) // layer.numbers_per_unit)
            if count < 1:
                passes.append([])
                free = room
                continue
            passes[-1].append(Portion(index, slice(first, first + count)))
            free -= layer.numbers + count * layer.numbers_per_unit
            first += count
    return tuple(tuple(each) for each in passes)


def bytes_of(value: Any, name: str = "memory") -> int:
    """Return a number of bytes, given as one or as text such as "512 MiB" or "2 GB"."""
    if not isinstance(value, str):
        return validation.integer(value, name)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", value)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if found is None or found[2].lower() not in units or not float(found[1]) > 0:
        raise ValueError(f"{name} must be a number of bytes or text such as '512 MiB', not {validation.shown(value)}")
    return int(float(found[1]) * units[found[2].lower()])
