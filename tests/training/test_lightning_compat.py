"""The private parts of Lightning that training uses: where they are looked for, and a run that counts by them goes on right."""

import inspect
import signal
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.utils.data import DataLoader

from learnpruner.config.trainer import LIGHTNING, MADE_HERE, TrainerConfig
from learnpruner.training import lightning_compat

BATCHES, ACCUMULATED = 12, 3


class Counted(L.LightningModule):
    """Learns one number, and notes which batches it met and how many were before each."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_at, self.met = stop_at, []

    def on_save_checkpoint(self, checkpoint):
        lightning_compat.count_whole_steps(self.trainer, checkpoint)

    def on_train_batch_start(self, batch, index):
        if index == self.stop_at:
            raise RuntimeError("stopped")

    def training_step(self, batch, index):
        self.met.append((lightning_compat.batches_met(self.trainer), index, int(batch)))
        return (self.weight - batch).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(folder, **more):
    return L.Trainer(
        accelerator="cpu", max_steps=BATCHES // ACCUMULATED, accumulate_grad_batches=ACCUMULATED, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **more,
    )  # fmt: skip


def data():
    return DataLoader(torch.arange(BATCHES, dtype=torch.float32), batch_size=1)


def test_a_run_cut_within_a_step_goes_on_at_the_steps_first_batch(tmp_path):
    whole = Counted()
    trainer(tmp_path, enable_checkpointing=False).fit(whole, data())
    assert whole.met == [(index, index, index) for index in range(BATCHES)]
    cut, first = Counted(stop_at=ACCUMULATED + 2), trainer(tmp_path, enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="stopped"):
        first.fit(cut, data())
    assert first.global_step == 1
    first.strategy.connect(cut)
    checkpoint = first._checkpoint_connector.dump_checkpoint()
    counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counted in (counts["current"], counts["total"]):
        assert set(counted.values()) == {ACCUMULATED}
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] == 1
    first.save_checkpoint(tmp_path / "cut.ckpt")
    resumed, second = Counted(), trainer(tmp_path, enable_checkpointing=False)
    second.fit(resumed, data(), ckpt_path=tmp_path / "cut.ckpt")
    assert [met[:2] for met in resumed.met] == [met[:2] for met in whole.met[ACCUMULATED:]]
    assert second.global_step == BATCHES // ACCUMULATED


def test_the_last_checkpoint_is_known(tmp_path):
    callback = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_last=True, save_top_k=-1)
    assert lightning_compat.last_saved(callback) == (None, 0)
    trainer(tmp_path, callbacks=[callback]).fit(Counted(), data())
    path, step = lightning_compat.last_saved(callback)
    assert path.is_file() and path.parent == tmp_path and step == BATCHES // ACCUMULATED


def test_a_logger_writes_with_the_writer_that_it_is_given(tmp_path):
    logger, writer = CSVLogger(tmp_path, name="", version=""), ExperimentWriter(str(tmp_path / "given"))
    lightning_compat.write_with(logger, writer)
    assert logger.experiment is writer


def test_nobody_is_waited_for_and_nobody_left():
    strategy = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).strategy
    asked = inspect.signature(strategy.reduce_boolean_decision).parameters
    assert list(asked) == ["decision", "all"] and callable(strategy.barrier)
    launched = object.__new__(_SubprocessScriptLauncher)
    ended = []
    launched.procs = [SimpleNamespace(poll=lambda: None, pid=0, send_signal=ended.append)]
    lightning_compat.wait_for_no_other(one := SimpleNamespace(strategy=strategy))
    assert one.strategy.barrier("anything") is None
    assert one.strategy.reduce_boolean_decision(True) is True and one.strategy.reduce_boolean_decision(False) is False
    lightning_compat.kill_launched(SimpleNamespace(strategy=SimpleNamespace(launcher=launched)))
    assert ended == [signal.SIGKILL]


def test_every_argument_of_the_trainer_is_known():
    """A new version's further arguments are taken, or said to be made here."""
    arguments = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    ours = set(TrainerConfig.model_fields)
    assert ours | LIGHTNING | set(MADE_HERE) == arguments
    assert not (ours & LIGHTNING or ours & set(MADE_HERE) or LIGHTNING & set(MADE_HERE))
