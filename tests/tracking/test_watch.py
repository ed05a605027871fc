import concurrent.futures
import copy
import dataclasses
import math
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.known import K4
from reference.training import LEARNING_RATE, kernels, network, steps
from sgdstab_fast.tracking import watch as watching
from torch import nn

# Small networks are faster than what is measured of them.
pytestmark = pytest.mark.filterwarnings(r"ignore:\d+ points were due:sgdstab_fast.AccuracyWarning")
N_STEPS = 201


def trained(tracker=None, n_steps=N_STEPS, learning_rate=LEARNING_RATE, **options):
    """The parameters after a run, watched or not."""
    model, inputs, targets = network()
    if tracker is None:
        for _ in steps(model, inputs, targets, n_steps, learning_rate):
            pass
        return model.state_dict()
    with tracker.watch(model, inputs, targets, **options) as watch:
        for step in steps(model, inputs, targets, n_steps, learning_rate):
            watch(step)
    return model.state_dict()


def economy(**options):
    return sf.StabilityTracker(LEARNING_RATE, 4, quantities="economy", **options)


def test_training_does_not_notice():
    alone = trained()
    for background in (True, False):
        watched = trained(economy(), every=100, background=background)
        assert all(torch.equal(watched[name], alone[name]) for name in alone)


def test_in_the_foreground_every_point_is_where_it_is_due():
    tracker = economy()
    trained(tracker, every=100, background=False)
    assert tracker.history["step"].tolist() == [0, 100, 200]
    for point, (_, kernel) in zip(tracker.history, kernels(), strict=False):
        assert point.critical_mean_square == pytest.approx(
            sf.critical_learning_rate(kernel, "mean-square", 4).value, rel=1e-9
        )


@pytest.mark.parametrize("executor", [None, "threads", "processes"])
def test_in_the_background_points_are_those_of_their_steps(executor):
    pools = {
        "threads": lambda: concurrent.futures.ThreadPoolExecutor(1),
        "processes": lambda: concurrent.futures.ProcessPoolExecutor(1),
    }
    tracker = economy()
    if executor is None:
        trained(tracker, every=50)
    else:
        with pools[executor]() as pool:
            trained(tracker, every=50, executor=pool)
    assert len(tracker.history) >= 1
    model, inputs, targets = network()
    measured = set(tracker.history["step"].tolist())
    by_step = {point.step: point for point in tracker.history}
    for step in steps(model, inputs, targets, N_STEPS):
        if step in measured:
            kernel = sf.gram.from_torch(model, inputs, targets=targets)
            assert by_step[step].loss == pytest.approx(kernel.loss, rel=1e-12)
            assert by_step[step].sharpness == pytest.approx(np.linalg.eigvalsh(kernel.matrix)[-1] / 24, rel=1e-9)


@pytest.mark.parametrize(("n_steps", "released", "taken"), [(131, None, 100), (91, 70, 70)])
def test_a_point_that_has_to_wait_is_of_the_step_it_is_told_with(n_steps, released, taken):
    """When the one before it is done, or after the training as it was when it was due: the network has gone on."""
    model, inputs, targets = network()
    tracker, losses, done = economy(), {}, threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as busy:
        busy.submit(done.wait)
        with tracker.watch(model, inputs, targets, every=50, executor=busy) as watch:
            for step in steps(model, inputs, targets, n_steps):
                losses[step] = sf.gram.from_torch(model, inputs, targets=targets).loss
                if step == released:
                    done.set()
                    concurrent.futures.wait([watch._pending.future])
                watch(step)
            done.set()
    assert tracker.history["step"].tolist() == [0, taken]
    assert tracker.history["loss"] == pytest.approx([losses[0], losses[taken]], rel=1e-12)


def test_a_point_that_waits_gives_way_to_a_later_one_from_elsewhere():
    model, inputs, targets = network()
    tracker, done = economy(), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as busy:
        busy.submit(done.wait)
        watch = tracker.watch(model, inputs, targets, every=10, executor=busy)
        for step in (0, 10, 10, 10):  # told again, it is no other point
            watch(step)
        tracker.update(kernels()[0][1], step=25)
        with pytest.warns(sf.AccuracyWarning, match="step 20 is before that of the last point, 25"):
            watch(20)
        done.set()
        with pytest.warns(sf.AccuracyWarning, match="^1 points were due"):
            watch.close()
        watch.close()  # and says nothing again
    assert tracker.history["step"].tolist() == [0, 25]


def test_networks_that_cannot_be_run_any_more_are_left_out_with_a_warning():
    class Failing(nn.Linear):
        def forward(self, x):
            if self.weight[0, 0] > 100:
                raise RuntimeError("out of memory")
            return super().forward(x)

    model, tracker = Failing(6, 1).double(), economy()
    inputs = torch.randn(24, 6, dtype=torch.float64)
    with tracker.watch(model, inputs, torch.zeros(24, 1), every=1, background=False) as watch:
        watch(0)
        with torch.no_grad():
            model.weight[0, 0] = 200.0
        with pytest.warns(sf.AccuracyWarning, match="step 1 is not measured: .*: out of memory"):
            watch(1)
    assert tracker.history["step"].tolist() == [0]


def test_copies_count_in_the_budget(monkeypatch):
    """Points that are due while another is measured are copied, but no longer than the budget lasts."""
    copied = []
    monkeypatch.setattr(watching, "_take_values", lambda *_: copied.append(None))
    model, inputs, targets = network()
    tracker, done = economy(), threading.Event()
    tracker.update(kernels()[0][1], step=0)
    with concurrent.futures.ThreadPoolExecutor(1) as busy:
        busy.submit(done.wait)
        with tracker.watch(model, inputs, targets, every=1, budget=1e-9, executor=busy) as watch:
            for step in range(1, 1000):
                watch(step)
            done.set()
    assert len(copied) <= 1


def test_any_function_of_the_step_is_a_schedule():
    tracker = economy()
    trained(tracker, every=lambda step: step in (3, 7, 150), background=False)
    assert tracker.history["step"].tolist() == [3, 7, 150]


def test_near_the_edge_points_are_closer():
    tracker = sf.StabilityTracker(0.1, quantities="economy")
    due = sf.tracking.near_edge(tracker, 100, 10, within=0.2)
    assert [step for step in range(201) if due(step)] == [0, 100, 200]
    tracker.update(K4, step=0, residuals=[1] * 4, learning_rate=0.4)
    assert [step for step in range(31) if due(step)] == [0, 10, 20, 30]
    tracker.update(K4, step=1, residuals=[1] * 4, learning_rate=0.3)
    assert not due(10)
    with pytest.raises(ValueError, match="tracker must measure 'critical_mean_square' or"):
        sf.tracking.near_edge(sf.StabilityTracker(0.1, quantities="sharpness"), 100, 10)


def test_a_budget_stretches_the_schedule(monkeypatch):
    """Points take less than a tenth of the run, by a clock on which a step takes 1 ms and a point 20."""
    now = [0.0]
    measured = watching.measured

    def taking_20_ms(*arguments):
        point, carried = measured(*arguments)
        now[0] += 0.02
        return dataclasses.replace(point, seconds=0.02), carried

    monkeypatch.setattr(watching, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(watching, "measured", taking_20_ms)
    tracker = economy()
    model, inputs, targets = network()
    with tracker.watch(model, inputs, targets, every=1, budget=0.1, background=False) as watch:
        for step in range(3000):
            watch(step)
            now[0] += 0.001
    n = len(tracker.history)
    assert 1 <= n < 2000
    assert tracker.history["seconds"][1:].sum() <= 0.1 * now[0]
    assert tracker.history["seconds"].sum() > 0.09 * now[0]


def test_points_are_logged_with_their_own_steps():
    logged = []
    tracker = economy()
    trained(tracker, every=100, background=False, log=lambda scalars, step: logged.append((scalars, step)))
    assert [step for _, step in logged] == [0, 100, 200]
    for scalars, _ in logged:
        assert all(name.startswith("stability/") for name in scalars)
        assert all(isinstance(value, float) and not math.isnan(value) for value in scalars.values())
        assert "stability/mean_square_ratio" in scalars
        assert "stability/exponent" not in scalars
    trained(economy(), every=100, background=False, prefix="edge/", log=lambda scalars, step: logged.append(scalars))
    assert "edge/sharpness" in logged[-1]


def test_a_logger_that_raises_is_left_out_with_a_warning():
    def log(scalars, step):
        raise RuntimeError("no connection")

    tracker = economy()
    with pytest.warns(
        sf.AccuracyWarning, match="log raised RuntimeError: no connection; nothing more is logged"
    ) as told:
        trained(tracker, every=100, background=False, log=log)
    assert len(told) == 1
    assert len(tracker.history) == 3


def test_a_run_that_diverges_is_followed_to_its_end():
    tracker = economy()
    with pytest.warns(sf.AccuracyWarning, match="diverged"):
        trained(tracker, n_steps=2001, learning_rate=50.0, every=500, background=False)
    assert tracker.history["verdict"][-1] == "diverged"
    assert tracker.history["step"].tolist() == [0, 500, 1000, 1500, 2000]


def test_learning_rates_of_schedulers_are_those_of_the_points():
    tracker = economy()
    model, inputs, targets = network()
    with tracker.watch(model, inputs, targets, every=1, background=False) as watch:
        for step, rate in enumerate((0.1, 0.2, 0.3)):
            watch(step, learning_rate=rate)
    assert tracker.history["learning_rate"].tolist() == [0.1, 0.2, 0.3]


def test_networks_in_training_mode_are_measured_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1)).double()
    inputs = torch.randn(24, 6, dtype=torch.float64)
    model(inputs)
    before = copy.deepcopy(model.state_dict())
    tracker = economy()
    with tracker.watch(model, inputs, torch.zeros(24, 1), background=False) as watch:
        watch(0)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = sf.gram.from_torch(copy.deepcopy(model).eval(), inputs)
    assert tracker.history[0].sharpness == pytest.approx(np.linalg.eigvalsh(expected.matrix)[-1] / 24)


class NotCopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((nn.Linear(6, 1), torch.zeros(3, 6)), {"every": 0}, "every must be at least 1, not 0"),
        ((nn.Linear(6, 1), torch.zeros(3, 6)), {"budget": 5}, "budget must lie strictly between 0 and 1, not 5"),
        ((nn.Linear(6, 1), torch.zeros(3, 6)), {"log": 3}, "log must be a function of scalars and a step, not 3"),
        ((nn.Linear(6, 1), torch.zeros(3, 6)), {"background": 1}, "background must be True or False"),
        ((nn.Linear(6, 1), torch.zeros(3, 6)), {"executor": "threads"}, "executor must"),
        ((lambda x: x, torch.zeros(3, 6)), {}, "model must be a torch.nn.Module"),
        ((NotCopied(6, 1), torch.zeros(3, 6)), {}, "copy.deepcopy can copy, but RuntimeError: no"),
    ],
)
def test_bad_input(arguments, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        economy().watch(*arguments, **options)


def test_what_cannot_be_measured_at_all_is_refused_at_the_first_point():
    model, inputs, targets = network()
    with economy().watch(model, inputs, torch.zeros(3, 1)) as watch, pytest.raises(ValueError, match="targets must be"):
        watch(0)
    too_many = sf.StabilityTracker(0.1, 100, quantities="economy")
    with (
        too_many.watch(model, inputs, targets, background=False) as watch,
        pytest.raises(ValueError, match="batch_size"),
    ):
        watch(0)


def test_later_a_point_that_fails_is_left_out_with_a_warning():
    model, inputs, targets = network()
    tracker = economy()
    with tracker.watch(model, inputs, targets, every=1, background=False) as watch:
        watch(0)
        with pytest.warns(sf.AccuracyWarning, match="step 1 is not measured: ValueError: batch_size"):
            watch(1, batch_size=100)
        watch(2)
    assert tracker.history["step"].tolist() == [0, 2]


def test_steps_that_are_told_again_are_measured_once():
    model, inputs, targets = network()
    tracker = economy()
    with tracker.watch(model, inputs, targets, every=1) as watch:
        for step in (0, 0, 0, 1, 1, 2):
            watch(step)
            watch._collect(wait=True)
    assert tracker.history["step"].tolist() == [0, 1, 2]
    with tracker.watch(model, inputs, targets, every=1) as watch:
        with pytest.warns(sf.AccuracyWarning, match="step 1 is before that of the last point, 2: it is not measured"):
            watch(1)
        watch(1)
        watch(3)
    assert tracker.history["step"].tolist() == [0, 1, 2, 3]


def test_points_are_in_the_order_of_their_steps_whoever_measures_them():
    model, inputs, targets = network()
    tracker = economy()
    with tracker.watch(model, inputs, targets, every=1) as watch:
        watch(0)
        watch._collect(wait=True)
        watch(10)
        tracker.update(kernels()[0][1], step=20)
    assert tracker.history["step"].tolist() == [0, 10, 20]


def test_an_error_in_the_loop_does_not_wait_and_is_not_hidden():
    model, inputs, targets = network()
    slow = sf.StabilityTracker(LEARNING_RATE, 4, rtol=1e-7)
    started = time.perf_counter()
    watch = slow.watch(model, inputs, targets, every=1)

    def interrupted():
        with watch:
            watch(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ValueError, match="watch is closed"):
        watch(1)
    assert time.perf_counter() - started < 5


def test_layers_that_are_frozen_on_the_way_are_left_out():
    model, inputs, targets = network()
    tracker = economy()
    with tracker.watch(model, inputs, targets, every=1, background=False) as watch:
        watch(0)
        model[0].requires_grad_(False)
        watch(1)
        model[0].requires_grad_(True)
        watch(2, learning_rate=0.0)
    head = np.linalg.eigvalsh(sf.gram.from_torch(model, inputs, parameters=["2.*"]).matrix)[-1] / 24
    first, second = tracker.history["sharpness"]
    assert second == pytest.approx(head) != first


def test_random_numbers_of_the_training_are_left_alone():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 0.0 * torch.randn(())

    model = Noisy(6, 1).double()
    with economy().watch(model, torch.ones(5, 6, dtype=torch.float64), torch.zeros(5, 1)) as watch:
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        watch(0)
        assert torch.rand(1) == expected


class WithBuffer(nn.Linear):
    def __init__(self):
        super().__init__(6, 1)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x):
        return self.scale * super().forward(x)


def test_buffers_that_are_not_saved_are_followed_too():
    model, tracker = WithBuffer().double(), economy()
    inputs = torch.randn(24, 6, dtype=torch.float64)
    with tracker.watch(model, inputs, torch.zeros(24, 1), every=1, background=False) as watch:
        watch(0)
        model.scale.fill_(2.0)
        watch(1)
    first, second = tracker.history["sharpness"]
    assert second == pytest.approx(4 * first)


# In processes of their own: frameworks warn of much, and change settings of the process.
LIGHTNING = """
import lightning, torch, sgdstab_fast as sf
from torch import nn

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 10), nn.Dropout(0.1), nn.Tanh(), nn.Linear(10, 1))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch):
        x, y = batch
        if self.global_step == FAIL:
            raise RuntimeError("stop")
        return (self(x) - y).square().mean() / 2

    def configure_optimizers(self):
        optimiser = torch.optim.SGD(self.parameters(), lr=0.2)
        return [optimiser], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimiser, 20, 0.5), "interval": "step"}]

torch.manual_seed(0)
x = torch.randn(32, 6)
y = x.sum(1, keepdim=True).sin()
tracker = sf.StabilityTracker(0.2, 8, quantities="economy")
callback = sf.tracking.lightning_callback(tracker, x, y, every=10, background=BACKGROUND)
from lightning.pytorch.loggers import CSVLogger
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8)
trainer = lightning.Trainer(max_steps=40, callbacks=[callback], logger=CSVLogger(DIRECTORY), enable_progress_bar=False,
                            enable_model_summary=False, enable_checkpointing=False, accelerator="cpu")
try:
    trainer.fit(Module(), loader)
except RuntimeError as error:
    assert str(error) == "stop"
print(tracker.history["step"].tolist(), tracker.history["learning_rate"].tolist())
trainer.logger.save()
import pathlib
print("stability/mean_square_ratio" in next(pathlib.Path(DIRECTORY).rglob("metrics.csv")).read_text())
"""

TRANSFORMERS = """
import torch, sgdstab_fast as sf
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(0)
configuration = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=16, max_position_embeddings=8, num_labels=2)
model = BertForSequenceClassification(configuration)
words = torch.randint(0, 30, (12, 8))
labels = torch.randint(0, 2, (12,))
examples = [{"input_ids": word, "labels": label} for word, label in zip(words, labels)]
tracker = sf.StabilityTracker(0.05, 4, quantities="economy")
callback = sf.tracking.transformers_callback(tracker, {"input_ids": words}, labels, loss="cross entropy", every=2,
                                             background=False)
settings = TrainingArguments(DIRECTORY, max_steps=6, per_device_train_batch_size=4, learning_rate=0.05, optim="sgd",
                             report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no")
Trainer(model, settings, train_dataset=examples, callbacks=[callback]).train()
print(tracker.history["step"].tolist(), (tracker.history["sharpness"] > 0).all(), tracker.history["loss"])
"""


def output_of(program, directory, **values):
    given = {"DIRECTORY": str(directory), **values}
    text = "".join(f"{name} = {value!r}\n" for name, value in given.items()) + program
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_lightning_trains_with_a_callback(tmp_path):
    lines = output_of(LIGHTNING, tmp_path, BACKGROUND=False, FAIL=-1)
    assert lines[-2:] == ["[10, 20, 30, 40] [0.2, 0.1, 0.1, 0.05]", "True"]


def test_lightning_that_fails_leaves_the_points_so_far(tmp_path):
    lines = output_of(LIGHTNING, tmp_path, BACKGROUND=True, FAIL=35)
    assert lines[-2].startswith("[10")
    assert lines[-1] == "True"


def test_transformers_train_with_a_callback(tmp_path):
    assert output_of(TRANSFORMERS, tmp_path)[-1].startswith("[2, 4] True")  # at 6 the learning rate is 0


@pytest.mark.parametrize(
    ("name", "package"), [("lightning_callback", "lightning"), ("transformers_callback", "transformers")]
)
def test_without_a_framework_it_says_which(name, package, monkeypatch):
    for module in ("lightning", "lightning.pytorch.callbacks", "pytorch_lightning.callbacks", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        getattr(sf.tracking, name)(economy(), torch.zeros(3, 6))
