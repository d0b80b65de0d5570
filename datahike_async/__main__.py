"""``python -m datahike_async``."""

import sys

from datahike_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
