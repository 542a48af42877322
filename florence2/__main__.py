"""`python -m florence2` is the `florence2` command."""

from florence2.cli import script

if __name__ == "__main__":
    script()
