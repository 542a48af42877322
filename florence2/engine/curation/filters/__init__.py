"""The shipped filter rules."""
