"""`python -m beam_pipeline`: the same as `beam-embed`."""

import sys

from beam_pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
