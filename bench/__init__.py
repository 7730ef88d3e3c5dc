"""Benchmarks: programs, never timed tests. Every figure names the machine's noise beside it."""
