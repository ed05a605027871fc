import numpy as np
import pytest
from sgdstab_fast._core.functions import core
from sgdstab_fast._core.seeds import seed_from

KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)


@pytest.mark.parametrize("counter", [[0, 0, 0, 0], [1, 2, 3, 4], [2**64 - 1, 7, 2**63, 2**64 - 1]])
def test_philox_is_bit_identical_to_numpy(counter):
    # numpy increments the 256-bit counter before it draws
    before = (sum(word << (64 * i) for i, word in enumerate(counter)) - 1) % 2**256
    words = np.array([(before >> (64 * i)) & (2**64 - 1) for i in range(4)], dtype=np.uint64)
    philox = np.random.Philox(counter=words, key=np.array(KEY, dtype=np.uint64))
    assert core.philox4x64(counter, list(KEY)) == philox.random_raw(4).tolist()


def reference_examples(key, chain, first_step, n_steps, n_examples):
    """The stream's definition, in Python integers."""
    threshold = 2**32 % n_examples
    for step in range(first_step, first_step + n_steps):
        block, lane = divmod(step, 8)
        for attempt in range(100):
            word = core.philox4x64([block, attempt, chain, 0], list(key))[lane // 2]
            scaled = (word >> (32 * (lane % 2)) & (2**32 - 1)) * n_examples
            if scaled % 2**32 >= threshold:
                yield scaled >> 32
                break


@pytest.mark.parametrize("n_examples", [1, 2, 7, 1000, 2**31 - 1, 2**31])
@pytest.mark.parametrize("first_step", [0, 5, 2**40 + 3])
def test_examples_follow_the_definition_from_any_step(n_examples, first_step):
    drawn = core.examples(key=KEY, chain=9, first_step=first_step, n_steps=100, n_examples=n_examples)
    assert drawn.tolist() == list(reference_examples(KEY, 9, first_step, 100, n_examples))


def test_rejection_happens_and_is_followed():
    # with N just above 2^31 / 2 * ... a quarter of the halves is rejected: N = 3 * 2^29 leaves 2^32 mod N = 2^30
    drawn = core.examples(key=KEY, chain=1, first_step=0, n_steps=4000, n_examples=3 * 2**29)
    assert drawn.tolist() == list(reference_examples(KEY, 1, 0, 4000, 3 * 2**29))


def test_examples_are_uniform_and_chains_differ():
    drawn = core.examples(key=KEY, chain=0, first_step=0, n_steps=70_000, n_examples=7)
    chi_squared = ((np.bincount(drawn, minlength=7) - 10_000) ** 2 / 10_000).sum()
    assert chi_squared < 22.5  # P = 1e-3 with 6 degrees of freedom
    other = core.examples(key=KEY, chain=1, first_step=0, n_steps=70_000, n_examples=7)
    assert abs((drawn == other).mean() - 1 / 7) < 4 * np.sqrt(6 / 49 / 70_000)


def test_seeds_take_what_default_rng_takes():
    assert seed_from(5).key == seed_from(np.random.SeedSequence(5)).key
    assert seed_from(5).key != seed_from(6).key
    assert seed_from([1, 2]).key == seed_from((1, 2)).key
    generator = np.random.default_rng(5)
    first, second = seed_from(generator), seed_from(generator)
    assert first.key != second.key
    assert seed_from(np.random.default_rng(5)).key == first.key
    assert seed_from(np.random.RandomState(3)).key != seed_from(np.random.RandomState(4)).key
    assert seed_from(None).key != seed_from(None).key
    for bad in ("seed", -1, 1.5):
        with pytest.raises((TypeError, ValueError), match="rng must be"):
            seed_from(bad)
