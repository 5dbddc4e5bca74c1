"""Benchmarks of whatever an engine runs: a load, what came of it, and the stage that keeps it as a report."""
