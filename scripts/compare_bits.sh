#!/usr/bin/env bash
# Whether every result is, to the last bit, what it was at another revision:
#
#     scripts/compare_bits.sh BASE PYTHON [PATTERN ...]     or     make bits BASE=<revision> [IGNORE="PATTERN ..."]
#
# PYTHON has this revision installed. BASE is built in an environment of its own under build/bits, which is used again,
# as are its results. Both make the calls of tests/whole/bits_calls.py, this revision's, at every SIMD level that this
# machine runs. PATTERNs are of fields that may differ, such as '*.fingerprint'. Exits with 1 if any other does.
set -euo pipefail

revision=$(git rev-parse --verify "$1^{commit}")
here=$2
ignored=("${@:3}")
whole=tests/whole
base=build/bits/$revision  # its sources, its environment, and what came of it
unset PYTHONPATH SGDSTAB_SIMD

if [ ! -e "$base/installed" ]; then
    rm -rf "$base"
    mkdir -p "$base/source"
    git archive "$revision" | tar -x -C "$base/source"
    "${PYTHON:-python3}" -m venv "$base/venv"
    # The versions of this environment: bits are also numpy's and BLAS's.
    "$here" -m pip list --format=freeze --exclude sgdstab_fast --exclude pip > "$base/versions"
    "$base/venv/bin/python" -m pip install --quiet --constraint "$base/versions" "$base/source"
    touch "$base/installed"
fi

calls=$(cat "$whole"/bits*.py | sha256sum | cut -c1-12)
pairs=()
for level in $("$here" -c "import sgdstab_fast as sf; print(sf.build_info()['simd_levels'])"); do
    of_base=$base/$level-$calls.json of_here=build/bits/here-$level.json
    SGDSTAB_SIMD=$level "$here" "$whole/bits.py" > "$of_here" &
    if [ ! -e "$of_base" ]; then
        SGDSTAB_SIMD=$level "$base/venv/bin/python" "$whole/bits.py" > "$of_base.part"
        mv "$of_base.part" "$of_base"
    fi
    wait $!
    pairs+=("$of_base" "$of_here")
done
"$here" "$whole/compare_bits.py" "${pairs[@]}" --ignore "${ignored[@]}"
