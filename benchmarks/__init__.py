"""Benchmarks: the standard workloads beside peers, in one run on one machine. See README.md."""
