"""What a pruning method is, in torch alone: what it sees, what it decides, and how many tokens it may keep."""
