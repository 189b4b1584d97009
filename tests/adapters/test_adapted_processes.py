"""Two processes train an adapter as one does on twice the batches: every weight is used, and gradients are averaged."""

import torch
from safetensors.torch import load_file

from tests.training.test_trainer import TWO, place, start  # noqa: F401  a fixture

STEPS = "trainer.max_steps=2"


def test_two_processes_train_lora_as_one_that_accumulates_two_batches(place):  # noqa: F811
    folders = []
    for name, settings in (("both", TWO), ("alone", ["trainer.accelerator=cpu", "trainer.accumulate_grad_batches=2"])):
        done, folder = start(place, name, *settings, "adapter=lora", STEPS)
        assert done.returncode == 0, done.stderr
        folders.append(folder / "export" / "adapter" / "adapter_model.safetensors")
    found, expected = map(load_file, folders)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    assert any(value.abs().max() > 1e-4 for name, value in found.items() if "lora_B" in name)
