"""The figure and the tables of docs/benchmarks/kernels.md, from what bench/roofline.py has measured."""

import re

import matplotlib as mpl
import numpy as np
from roofline import LARGEST_SCALED, SCALING_SIZES, THEORY

mpl.use("Agg")
import matplotlib.pyplot as plt

PEAK, READING = "product of matrices", "K @ v"
STYLES = {
    "full frames": ("C0", "o"),
    "panels": ("C1", "s"),
    "evaluations of growth": ("C2", "^"),
    "vectors": ("C3", "o"),
    "vectors, K of float32": ("C4", "v"),
    "batches of 16": ("C5", "D"),
    "populations": ("C6", "P"),
}
READERS = ("vectors", "vectors, K of float32", "batches of 16")
SMALLEST_FITTED = 256


def write(found, folder):
    """Draw kernels.png and fill in the tables of kernels.md."""
    draw(found, folder / "kernels.png")
    page = folder / "kernels.md"
    text = page.read_text(encoding="utf-8")
    tables = {"kernels": kernels(found), "levels": levels(found), "growth": growth(found), "peers": peers(found)}
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def rates(found, level, threads, kernel, what):
    """Return {N: multiply-adds or bytes a nanosecond}."""
    return {
        each["n"]: each[what] / each["seconds"] / 1e9
        for each in found["kernels"]
        if (each["level"], each["threads"], each["kernel"]) == (level, threads, kernel)
    }


def best_level(found):
    """Return the widest SIMD level that was measured."""
    return max(each["level"] for each in found["kernels"])


def draw(found, path):
    """Draw multiply-adds of all kernels, and bytes of those that read a row of K for every step."""
    level = best_level(found)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axes, what, kernels_of, roof, label in [
        (left, "multiply_adds", STYLES, PEAK, "multiply-adds a nanosecond"),
        (right, "bytes", READERS, READING, "bytes of K a nanosecond"),
    ]:
        roofs = rates(found, level, 2, roof, what)
        axes.plot(list(roofs), list(roofs.values()), color="black", lw=2, label=roof)
        for kernel in kernels_of:
            color, marker = STYLES[kernel]
            its = rates(found, level, 2, kernel, what)
            axes.plot(list(its), list(its.values()), color=color, marker=marker, ms=5, lw=1.3, label=kernel)
        axes.set(xscale="log", yscale="log", xlabel="N", ylabel=label)
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    figure.suptitle(f"{found['machine']['processor']}, {level}, two threads", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table_of(header, rows):
    """Return a table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value):
    """Return a number of two or three digits; nothing where there is none."""
    return "" if value is None else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def kernels(found):
    """Return the rates of all kernels at the widest level on two threads, and what they are of the roofs."""
    level = best_level(found)
    sizes = sorted({each["n"] for each in found["kernels"] if each["level"] == level})
    rows = []
    for kernel in (PEAK, *STYLES):
        its = rates(found, level, 2, kernel, "multiply_adds")
        rows.append([kernel, *(number(its.get(n)) for n in sizes)])
    for kernel in (READING, *READERS):
        its = rates(found, level, 2, kernel, "bytes")
        rows.append([f"{kernel}, bytes", *(number(its.get(n)) for n in sizes)])
    return table_of(["a nanosecond", *(f"N = {n}" for n in sizes)], rows)


def levels(found):
    """Return multiply-adds of kernels at N = 256 for every SIMD level and number of threads."""
    columns = sorted({(each["level"], each["threads"]) for each in found["kernels"]})
    rows = []
    for kernel in (PEAK, *STYLES):
        its = [rates(found, *column, kernel, "multiply_adds").get(256) for column in columns]
        rows.append([kernel, *map(number, its)])
    threads = {1: "one thread", 2: "two threads"}
    return table_of(["N = 256", *(f"{level}, {threads[n]}" for level, n in columns)], rows)


def growth(found):
    """Return times of estimators and the power of N that they grow with, fitted from N = 256 on."""
    rows = []
    for name, theory in THEORY.items():
        times = {int(n): seconds for n, seconds in found["scaling"][name].items()}
        fitted = {n: seconds for n, seconds in times.items() if n >= SMALLEST_FITTED}
        power = np.polyfit(np.log(list(fitted)), np.log(list(fitted.values())), 1)[0]
        shown = [seconds_of(times.get(n)) for n in SCALING_SIZES if n in (64, 256, 1024, 4096)]
        rows.append([name, *shown, f"{power:.1f}", str(theory)])
        assert max(times) == LARGEST_SCALED.get(name, max(SCALING_SIZES))
    sizes = [f"N = {n}" for n in SCALING_SIZES if n in (64, 256, 1024, 4096)]
    return table_of(["", *sizes, "power of N", "in theory"], rows)


def peers(found):
    """Return steps of the full spectrum a second by us and by others, with their periods and our ratio over them."""
    cases = list(found["peers"].values())
    rows = []
    for name in cases[0]:
        if name == "learning rate":
            continue
        row = [name]
        for case in cases:
            rate, period = case[name]
            ratio = case["sgdstab_fast"][0] / rate
            row += [steps_of(rate) + (f" ({period})" if period else ""), f"{number(ratio)}x" if period else ""]
        rows.append(row)
    header = ["steps a second"]
    for name, case in zip(("4 x 4", "40 irises", "128 digits"), cases, strict=True):
        header += [f"{name}, eta = {case['learning rate']:g}", "ours over it"]
    return table_of(header, rows)


def steps_of(rate):
    """Return a number of steps a second with its unit."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if rate >= factor:
            return f"{number(rate / factor)} {unit}"
    return number(rate)


def seconds_of(value):
    """Return a time with its unit."""
    if value is None:
        return ""
    for unit, factor in (("ns", 1e9), ("μs", 1e6), ("ms", 1e3), ("s", 1.0)):
        if value * factor < 1000 or unit == "s":
            return f"{number(value * factor)} {unit}"
    return ""
