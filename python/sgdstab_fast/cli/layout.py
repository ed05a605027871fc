"""Where commands print: pages as wide as the terminal, on which words wrap, columns move down, and nothing is cut."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

SPELLED = {"±": "+-", "…": "...", "λ": "lambda"}
"""What is written where characters cannot be."""
_WIDTH = 80  # where there is none
_BETWEEN, _EDGES = 3, 2  # blanks between columns, and at both sides of a table
_FEWEST = 4  # characters of a column, on whatever terminal
_LEAST_TEXT = 14  # characters of a column of words, if they are as long
_LEAST_VALUE = 20  # characters beside a label


class Column(NamedTuple):
    """A column of a table: its heading, which may wrap, and cells, of numbers unless they are words, which may too."""

    heading: str
    cells: Sequence[str]
    left: bool = False
    wraps: bool = False

    @property
    def natural_width(self) -> int:
        """Characters of the longest line."""
        return max(map(cell_len, [line for text in (self.heading, *self.cells) for line in text.split("\n")]))

    @property
    def least_width(self) -> int:
        """Characters below which words, or numbers, would be cut."""
        parts = [*self.heading.split(), *(part for cell in self.cells for part in self._parts(cell))]
        longest = max(map(cell_len, parts), default=0)
        return max(longest, min(self.natural_width, _LEAST_TEXT)) if self.wraps else longest

    def _parts(self, cell: str) -> list[str]:
        return cell.split() if self.wraps else cell.split("\n")


class Page:
    """Standard output of a command."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if self.console.width < 1:  # COLUMNS=0, on which nothing would be left
            self.console = Console(highlight=False, width=_WIDTH)

    def line(self, text: str | Text, style: str = "") -> None:
        """Print a paragraph."""
        self._lines(Text(style=style).append(self._written(text)), 0)

    def note(self, message: str) -> None:
        """Print what a result falls short of."""
        self.line(Text.assemble(("note:", "yellow"), " ", message))

    def labelled(self, rows: Iterable[tuple[str, str]], width: int = 15) -> None:
        """Print values beside their labels, each under the last where there is no room beside."""
        for label, value in rows:
            if self.console.width >= width + _LEAST_VALUE:
                self._lines(self._written(value), width, Text(label.ljust(width), "bold"))
            else:
                self._lines(Text(label, "bold"), 0)
                self._lines(self._written(value), 2, Text("  "))

    def sheet(self, title: str, rows: Iterable[tuple[str, str | Text]]) -> None:
        """Print one table of labels and values."""
        self.line(title, "italic")
        table = Table(show_header=False, box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(style="bold", overflow="fold")
        table.add_column(overflow="fold")
        for label, value in rows:
            table.add_row(Text(label), self._written(value))
        self._print(table)

    def table(self, title: str, columns: Sequence[Column], styles: Iterable[str] = (), left_out: str = "") -> None:
        """Print columns of equal length, the first of them again beside those for which there is no room on the right.

        Styles are of rows; `left_out` says which rows are missing.
        """
        self.line(title, "italic")
        written = [each._replace(heading=self._text(each.heading), cells=[*map(self._text, each.cells)])
                   for each in columns]  # fmt: skip
        of_rows = list(styles) or [""] * len(columns[0].cells)
        for block, widths in blocks(written, self.console.width):
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for column, width in zip(block, widths, strict=True):
                justify = "left" if column.left else "right"
                table.add_column(column.heading, justify=justify, overflow="fold", width=width)  # type: ignore[arg-type]
            for row, style in zip(zip(*(column.cells for column in block), strict=True), of_rows, strict=True):
                table.add_row(*map(Text, row), style=style)
            self._print(table)
        if left_out:
            self.line(left_out)

    def _print(self, table: Table) -> None:
        """Print a table without the blanks that its lines end with."""
        for segments in self.console.render_lines(table, pad=False):
            line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
            line.rstrip()
            self.console.print(line)

    def _lines(self, text: Text, indent: int, first: Text | None = None) -> None:
        """Print a text whose lines begin so far on the right."""
        for number, line in enumerate(text.wrap(self.console, max(self.console.width - indent, 1)) or [Text()]):
            line.rstrip()
            self.console.print((first or Text()) + line if number == 0 else Text(" " * indent) + line)

    def _written(self, text: str | Text) -> Text:
        """Return a text as standard output can encode it."""
        if isinstance(text, str):
            return Text(self._text(text))
        written = Text(style=text.style, end="")
        for part in text.divide(sorted({end for span in text.spans for end in (span.start, span.end)})):
            written.append(self._text(part.plain), part.spans[0].style if part.spans else "")
        return written

    def _text(self, text: str) -> str:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            for character, letters in SPELLED.items():
                text = text.replace(character, letters)
        return text


def blocks(columns: Sequence[Column], width: int) -> list[tuple[list[Column], list[int]]]:
    """Return columns in blocks that fit a width, each behind the first column, with the widths of columns."""
    key, *others = columns
    found: list[tuple[list[Column], list[int]]] = []
    while others or not found:
        n = len(others)
        while n > 1 and fitted([key, *others[:n]], width) is None:
            n -= 1
        block = [key, *others[:n]]
        found.append((block, fitted(block, width) or _squeezed(block, width)))
        others = others[n:]
    return found


def fitted(columns: Sequence[Column], width: int) -> list[int] | None:
    """Return widths of columns at which they fit beside each other: headings wrap first, then words; else None."""
    widths = [column.natural_width for column in columns]
    excess = sum(widths) + _BETWEEN * (len(columns) - 1) + _EDGES - width
    for may_wrap in (lambda column: not column.wraps, lambda column: column.wraps):
        while excess > 0:
            slack = [each - column.least_width if may_wrap(column) else 0
                     for column, each in zip(columns, widths, strict=True)]  # fmt: skip
            if (most := max(slack)) <= 0:
                break
            widths[slack.index(most)] -= 1
            excess -= 1
    return widths if excess <= 0 else None


def _squeezed(columns: Sequence[Column], width: int) -> list[int]:
    """Return widths of the fewest columns on a terminal too narrow for their words, which fold."""
    widths = [column.least_width for column in columns]
    room = width - _BETWEEN * (len(columns) - 1) - _EDGES
    while sum(widths) > room and max(widths) > _FEWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def left_out(*rows: tuple[int, int, str], where: str = "--csv has all") -> str:
    """Return how many rows are shown, how many there are and of what, where these differ, and where all of them are."""
    told = " and ".join(f"{shown} of {n} {what}" for shown, n, what in rows if shown < n)
    return f"{told}; {where}" if told else ""
