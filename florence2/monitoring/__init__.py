"""What runs of commands say of themselves while they go on: state, log, metrics. Knows no store and no picture."""
