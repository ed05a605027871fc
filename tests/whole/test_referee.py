"""Randomised systems with two scales of time: confident answers are right as often as they say.

`draw(family, seed)` of `reference.two_scales` makes a system again of which a line of this test's output speaks.
"""

import math

import pytest
from reference.referee import answers, coverage, rightness, table
from reference.two_scales import FAMILIES

N_SYSTEMS = 22  # of each family


@pytest.mark.parametrize("family", FAMILIES)
def test_confident_answers_are_not_far_off(family):
    # Three half widths of a 95% interval are about six standard errors.
    for answer in answers(family, 0):
        assert not (answer.confident and answer.misses > 3), answer.line


@pytest.mark.calibrate
def test_confident_answers_are_covered(capsys):
    found = []
    for family in FAMILIES:
        for seed in range(1, 1 + N_SYSTEMS):
            found += answers(family, seed)
        with capsys.disabled():
            print(f"\n{table([each for each in found if each.family == family]).splitlines()[1]}", end="")
    wrong = [answer.line for answer in found if answer.confident and answer.covered < 1]
    with capsys.disabled():
        print("\n", *wrong, table(found), sep="\n")
    assert 0.92 <= coverage(found) <= 0.98
    assert rightness(found) >= 0.99
    for family in FAMILIES:
        covered = coverage([answer for answer in found if answer.family == family])
        assert covered >= 0.88 or math.isnan(covered), family
