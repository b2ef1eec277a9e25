"""`python -m medllama` is the `medllama` command."""

import sys

from medllama.cli import main

if __name__ == "__main__":
    sys.exit(main())
