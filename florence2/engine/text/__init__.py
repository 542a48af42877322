"""The dependency parser, and what is read from its parses."""
