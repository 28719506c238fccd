"""The default model, detector and error rates, in a module without imports so that `--help` stays fast."""

DEFAULT_MODEL = "casia-webface"
DEFAULT_DETECTOR = "mtcnn"

DEFAULT_RATE = 0.01  # the share of strangers that `identify` may name
DEFAULT_FMR = 1e-3  # the share of pairs of different people that `compare` may call the same
CLASSIFY_RATE = 0.015  # below the 2 % target, because estimates from few photos vary
