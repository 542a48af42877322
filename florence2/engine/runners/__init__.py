"""Who runs the units of work: here, supervised processes of this machine."""
