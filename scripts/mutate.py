"""Whether tests notice mistakes: ``python scripts/mutate.py [PATTERN]``.

Makes the changes of `scripts/mutations.py` one at a time, in a copy of the files that git does not ignore, builds the
core there where one is of C++, runs the tests that are to notice it, and says which do not. Without any change all of
these have to pass. It ends with status 1 if more than a few of the mistakes go unnoticed, or one of them cannot be made
any more.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
CAUGHT, SURVIVED, HARMLESS, NO_BUILD = "caught", "SURVIVED", "no fault", "DOES NOT COMPILE"
MOST_SURVIVORS = 3
_SECONDS = 120  # that tests may take; of all of them, without a mutation, so long for each
_NO_TESTS = (4, 5)  # what pytest ends with where it has found none


class Outcome(NamedTuple):
    """What came of a mutation."""

    mutation: Mutation
    verdict: str
    seconds: float
    by: str
    """The first test that failed."""


class Copy:
    """A copy of the files that git does not ignore, with the core built in it."""

    def __init__(self, folder: Path, *, jobs: int) -> None:
        self.folder, self._build, self._jobs = folder, folder / "build" / "mutate", jobs
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():  # as it is now, committed or not, unless it has gone
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        # Bytecode is checked by what a file says, not by when it was written: changes come within the second.
        python = folder / "python"
        self._run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", str(python)])

    def _run(self, command: Sequence[str]) -> str | None:
        """Run a command; return what it printed if it fails."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # cmake's and ninja's
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=dict(os.environ, PATH=path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.stdout if done.returncode else None

    def take_compiled(self) -> bool:
        """Copy the compiled core that this Python has; say whether there is one."""
        found = importlib.util.find_spec("sgdstab_fast")
        modules = list((Path(found.origin).parent / "_core").glob("_*.so")) if found and found.origin else []
        for module in modules:
            shutil.copy(module, self.folder / "python" / "sgdstab_fast" / "_core")
        return bool(modules)

    def configure(self) -> None:
        """Prepare to build for this machine alone, and fast: answers are the same, and bits hardly matter here."""
        import pybind11  # of the group `mutate` in pyproject.toml

        command = ["cmake", "-S", ".", "-B", str(self._build), "-G", "Ninja", "-DSGDSTAB_SIMD_LEVELS=native"]
        command += ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1", f"-DPython_EXECUTABLE={sys.executable}"]
        command += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
        if said := self._run(command):
            raise SystemExit(said)

    def build(self) -> str | None:
        """Build the core, and put it where it is imported from; return what the compiler says if it fails."""
        said = self._run(["cmake", "--build", str(self._build), "-j", str(self._jobs)])
        return said or self._run(["cmake", "--install", str(self._build), "--prefix", str(self.folder / "python")])

    def test(self, tests: Sequence[str], seconds: float) -> tuple[int | None, str]:
        """Run tests up to the first that fails; return pytest's status, None where they hang, and what it printed."""
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        folders = [str(self.folder / each) for each in ("python", "tests", "bench")]
        environment["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
        with tempfile.TemporaryFile("w+") as output:
            running = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = running.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)  # with whatever its tests have begun
                running.wait()
            output.seek(0)
            return status, output.read()

    @contextmanager
    def changed(self, mutation: Mutation) -> Iterator[None]:
        """Make a change, and take it back."""
        file = self.folder / mutation.file
        before = file.read_text()
        if before.count(mutation.text) != 1:
            raise SystemExit(f"{mutation.name}: its text must occur once in {mutation.file}: {mutation.text!r}")
        file.write_text(before.replace(mutation.text, mutation.becomes))
        try:
            yield
        finally:
            file.write_text(before)


def outcome_of(mutation: Mutation, copy: Copy, seconds: float) -> Outcome:
    """Make a mutation, and say what came of it."""
    begun = time.monotonic()
    with copy.changed(mutation):
        if mutation.is_core and (said := copy.build()):
            return Outcome(mutation, NO_BUILD, time.monotonic() - begun, said.strip().splitlines()[-1])
        status, said = copy.test(mutation.tests.split(", "), seconds)
    if status in _NO_TESTS:
        raise SystemExit(f"{mutation.name}: {mutation.tests}: no tests\n{said}")
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
    by = failed[0] if failed else "hangs" if status is None else f"status {status}"
    verdict = CAUGHT if status != 0 else HARMLESS if mutation.survives else SURVIVED
    return Outcome(mutation, verdict, time.monotonic() - begun, "" if status == 0 else by)


def told(outcome: Outcome) -> str:
    """Return a line of the table."""
    by = outcome.by or (outcome.mutation.survives or outcome.mutation.wrong)
    return f"{outcome.verdict:<9}{outcome.seconds:6.0f} s  {outcome.mutation.name:<44}  {by}"


def chosen(options: argparse.Namespace) -> list[Mutation]:
    """Return the mutations that are asked for, those of one file together, so that less is built anew."""
    kinds = [True] * options.core + [False] * options.python or [True, False]  # of what is of the core
    found = [each for each in MUTATIONS if each.is_core in kinds]
    found = [each for each in found if re.search(options.pattern, f"{each.name} {each.file}")]
    return sorted(found, key=lambda each: (each.is_core, each.file if each.is_core else ""))


def main() -> int:
    """Make mutations, and tell what comes of them."""
    parser = argparse.ArgumentParser(description="Whether tests notice mistakes.")
    parser.add_argument(
        "pattern", nargs="?", default="", help="of names or files, a regular expression; by default all"
    )
    parser.add_argument("--python", action="store_true", help="those of Python alone, with the core as it was built")
    parser.add_argument("--core", action="store_true", help="those of the core alone")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="that tests of one may take; longer is caught")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    options = parser.parse_args()
    mutations = chosen(options)
    if not mutations:
        raise SystemExit(f"no mutation is of {options.pattern!r}")
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Copy(Path(folder), jobs=options.jobs)
        if any(each.is_core for each in mutations) or not copy.take_compiled():
            copy.configure()
            if said := copy.build():
                raise SystemExit(said)
        tests = sorted({test for each in mutations for test in each.tests.split(", ")})
        print(f"{len(mutations)} mutations; first all tests without any", flush=True)
        status, said = copy.test(tests, options.seconds * len(mutations))
        if status != 0:
            raise SystemExit(f"{said}\nwithout a mutation, too: status {status}")
        outcomes = []
        for mutation in mutations:
            outcomes.append(outcome_of(mutation, copy, options.seconds))
            print(told(outcomes[-1]), flush=True)
    return summary(outcomes)


def summary(outcomes: Sequence[Outcome]) -> int:
    """Print what was not caught, and how many were; return the status to end with."""
    numbers = {verdict: [each for each in outcomes if each.verdict == verdict] for verdict in _VERDICTS}
    print("\n" + ", ".join(f"{len(those)} {verdict}" for verdict, those in numbers.items() if those))
    for each in (*numbers[SURVIVED], *numbers[NO_BUILD]):
        print(f"\n{each.verdict}: {each.mutation.name}, {each.mutation.file}\n  - {each.mutation.text}")
        print(f"  + {each.mutation.becomes}\n  {each.mutation.wrong}\n  {each.mutation.tests}")
    return 1 if numbers[NO_BUILD] or len(numbers[SURVIVED]) > MOST_SURVIVORS else 0


_VERDICTS = (CAUGHT, SURVIVED, HARMLESS, NO_BUILD)

if __name__ == "__main__":
    sys.exit(main())
