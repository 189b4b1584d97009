"""What pruning saves: FLOPs and bytes in closed form, and measured times."""
