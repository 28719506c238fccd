"""How wrong the defaults may be, apart so that `--help` need not load what computes thresholds from them."""

DEFAULT_RATE = 0.01  # strangers that identify may name
DEFAULT_FMR = 1e-3  # pairs of different people that compare may call the same
CLASSIFY_RATE = 0.015  # below the fiftieth aimed at, for what so few photos tell of strangers scatters
