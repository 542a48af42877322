"""What stands of what was said: filters judge, sources are merged, thresholds are tuned."""
