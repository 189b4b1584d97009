"""What trains a pruner: the module, its losses, its trainer, checkpoints and logs."""
