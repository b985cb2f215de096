"""`python -m clinical_pretrain` is `clinical-pretrain`."""

import sys

from clinical_pretrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
