"""The memory that a plan allows is a bound of what the process grows by, and K does not depend on it."""

import subprocess
import sys

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.networks import NETWORKS, distance, network
from sgdstab_fast.gram.planning import LayerPlan, planned

MIB = 2**20
GROWTH = """
import re, sys
import torch
import sgdstab_fast as sf
from torch import nn

def kib(field):
    with open("/proc/self/status") as file:
        return int(re.search(field + r":\\s+(\\d+)", file.read())[1])

torch.manual_seed(0)
{make}
sf.gram.from_torch(model, inputs[:8], {arguments})  # what libraries load at their first use is not ours
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = kib("VmRSS")
kernel = sf.gram.from_torch(model, inputs, memory={memory!r}, out={out!r}, {arguments})
print(1024 * (kib("VmHWM") - before), kernel.plan.n_passes, kernel.relative_error)
"""
JAX = """
import re, sys
import jax, numpy as np
import sgdstab_fast as sf

def kib(field):
    with open("/proc/self/status") as file:
        return int(re.search(field + r":\\s+(\\d+)", file.read())[1])

rng = np.random.default_rng(0)
sizes = 784, {width}, {width}, 1
parameters = [rng.normal(size=shape).astype(np.float32) / 30 for shape in zip(sizes, sizes[1:])]
inputs = rng.normal(size=({n}, 784)).astype(np.float32)

def apply(parameters, x):
    for w in parameters[:-1]:
        x = jax.numpy.tanh(x @ w)
    return x @ parameters[-1]

sf.gram.from_jax(apply, parameters, inputs[:8], {arguments})
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = kib("VmRSS")
kernel = sf.gram.from_jax(apply, parameters, inputs, memory={memory!r}, {arguments})
print(1024 * (kib("VmHWM") - before), kernel.plan.n_passes, kernel.relative_error)
"""
MLP = "model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, {m}))\n"
MLP += "inputs = torch.randn({n}, 784)"
IMAGES = "model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), "
IMAGES += "nn.GroupNorm(4, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))\n"
IMAGES += "inputs = torch.randn(160, 3, 24, 24)"
SEQUENCES = (
    "from reference.networks import Transformer\nmodel = Transformer()\ninputs = torch.randint(0, 20, (500, 12))"
)
WORDS = "model = nn.Sequential(nn.Embedding(2000, 8), nn.Flatten(), nn.Linear(1600, 1))\n"
WORDS += "inputs = torch.randint(0, 2000, (200, 200))"
TEMPORARIES = """
class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(200))
    def forward(self, x):
        return (x[:, :, None] + self.w).sum(2).tanh().sum(1)
model, inputs = Pairs(), torch.randn(300, 200)
"""
CASES = {
    "mlp": (MLP.format(n=1500, m=1), 128, "", False),
    "ten outputs": (MLP.format(n=200, m=10), 128, "", False),
    "gradients": (MLP.format(n=80, m=1), 192, "method='gradients'", False),
    "gradients in float32": (MLP.format(n=100, m=1), 192, "method='gradients', dtype='float32'", False),
    "images": (IMAGES, 96, "", False),
    "images in float32": (IMAGES, 64, "dtype='float32'", False),
    "transformer": (SEQUENCES, 80, "", False),
    "embedding": (WORDS, 96, "", False),
    "temporaries": (TEMPORARIES, 96, "", False),
    "file": (MLP.format(n=5000, m=1), 144, "", True),
}


def grown(script):
    """Bytes by which a process grows, its passes, and the error of K."""
    path = [each for each in sys.path if each]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys; sys.path[:0] = {path!r}\n{script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return map(float, done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", CASES)
def test_the_process_grows_by_no_more(name, tmp_path):
    make, memory, arguments, in_file = CASES[name]
    out = str(tmp_path / "k.npy") if in_file else None
    growth, n_passes, error = grown(GROWTH.format(make=make, memory=f"{memory} MiB", arguments=arguments, out=out))
    print(f"{growth / MIB:.0f} MiB of {memory}, {n_passes:.0f} passes")
    assert growth <= memory * MIB
    assert error < 1e-5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("n", "width", "memory", "arguments"), [(150, 128, 192, ""), (150, 256, 256, "dtype='float32'")]
)
def test_a_process_with_jax_grows_by_no_more(n, width, memory, arguments):
    growth, n_passes, error = grown(JAX.format(n=n, width=width, memory=f"{memory} MiB", arguments=arguments))
    print(f"{growth / MIB:.0f} MiB of {memory}, {n_passes:.0f} passes")
    assert growth <= memory * MIB
    assert error < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_k_does_not_depend_on_the_memory(name, monkeypatch):
    model, inputs = network(name)
    whole = sf.gram.from_torch(model, inputs)
    monkeypatch.setattr("sgdstab_fast.gram.torch_model.TorchModel.require_memory", lambda model, memory: None)
    monkeypatch.setattr("sgdstab_fast.gram.planning.WORKSPACE", 0)
    monkeypatch.setattr("sgdstab_fast.gram.planning._PANELS", 0)
    with pytest.raises(ValueError, match="memory must be at least") as found:
        sf.gram.from_torch(model, inputs, memory=1)
    words = str(found.value).split()
    parts = sf.gram.from_torch(model, inputs, memory=f"{float(words[5]) * 1.1} {words[6].rstrip(',')}")
    assert parts.plan.n_passes > 1 or parts.plan.chunk < whole.plan.chunk or whole.n_examples == 1
    assert distance(parts.matrix, whole.matrix) < 1e-13
    np.testing.assert_allclose(parts.predictions, whole.predictions, rtol=1e-12, atol=1e-14)


def test_too_little_is_refused_with_the_least_that_will_do():
    model, inputs = network("ten outputs")
    with pytest.raises(
        ValueError, match=r"memory must be at least (\S+ MiB), not 20 MiB: K takes 28\.1 KiB"
    ) as refused:
        sf.gram.plan(model, inputs, memory="20 MiB")
    least = " ".join(str(refused.value).split()[5:7]).rstrip(",")
    assert sf.gram.plan(model, inputs, memory=least).peak_bytes <= 1.01 * float(least.split()[0]) * MIB


def layer(units, numbers, per_unit):
    return LayerPlan("layer", "linear", "factors", 10, units, numbers, per_unit, 1e6, 7)


@pytest.mark.parametrize("memory", [60 * MIB, 80 * MIB, 200 * MIB, 2**30])
def test_every_unit_is_in_one_pass(memory):
    layers = [layer(500, 30, 10), layer(3, 0, 1000), layer(100, 500, 1)]
    plan = planned(layers, 1000, 1, memory)
    seen = [
        [
            unit
            for portions in plan.passes
            for each in portions
            if each.layer == index
            for unit in range(500)[each.units]
        ]
        for index in range(3)
    ]
    assert seen == [list(range(each.units)) for each in layers]
    assert plan.peak_bytes <= memory


def test_a_plan_is_printed_as_a_table():
    lines = str(planned([layer(500, 30, 10), layer(3, 0, 1000)], 1000, 2, 2**30)).splitlines()
    assert lines[0] == "K of 1000 examples with 2 outputs: 2000 x 2000"
    assert lines[1].split() == ["layer", "kind", "parameters", "method", "multiplications", "kept"]
    assert lines[-1].startswith("every example evaluated once, 512 at a time; at most ")
    assert len(lines) == 6
