"""`python -m ovseg_ros.offline.cli`, as torchrun starts it."""

import sys

from ovseg_ros.offline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
