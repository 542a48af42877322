"""Which annotations are kept: filters judge, sources are merged, thresholds are tuned."""
