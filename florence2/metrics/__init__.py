"""Metrics: `update` with a truth and what was found, `compute` for numbers. They know records, no task and no file.

`compute(rows)` scores a resample of the updates, for bootstrap intervals. Fractions are in [0, 1]; nothing is ever NaN.
"""
