"""Plans on benchmarks: answers, scores, statistics, tables and pictures."""
