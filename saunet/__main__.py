"""`python -m saunet` is `saunet`."""

import sys

from saunet.cli import main

if __name__ == "__main__":
    sys.exit(main())
