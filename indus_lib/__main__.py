"""`python -m indus_lib`: see `indus_lib.cli`."""

import sys

from .cli import main

sys.exit(main())
