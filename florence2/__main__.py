"""`python -m florence2` is the `florence2` command."""

import sys

from florence2.cli import main

sys.exit(main())
