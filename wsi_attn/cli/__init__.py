"""The command line: a thin skin over the library, one file a command."""

import os

# NumPy's matrix products are small here, while its threads wait busily whenever a command starts.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
