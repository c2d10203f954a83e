"""`python -m pipeline` is the same as `photodrag`."""

import sys

from pipeline.cli import main

sys.exit(main())
