"""What knows nothing of pruning."""
