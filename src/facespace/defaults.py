"""The default models, detector, error rates and photo size limit, without imports so that `--help` stays fast."""

DEFAULT_MODEL = "sface"  # for every command that names people
TUTORIAL_MODEL = "casia-webface"  # FaceNet 20180408-102900, for training crops and the legacy programs
DEFAULT_DETECTOR = "yunet"

DEFAULT_RATE = 0.01  # share of strangers that `identify` may name
DEFAULT_FMR = 0.01  # share of pairs of different people within one photo that `compare` may call the same
DEFAULT_RANDOM_FMR = 1e-3  # the same share of random pairs, for models without measurements on group photos
CLASSIFY_RATE = 0.015  # below the 2 % target, because estimates from few photos vary

MAX_PIXELS = 250_000_000  # per photo; phone cameras reach 201 million
MAX_PIXELS_VARIABLE = "FACESPACE_MAX_PIXELS"  # environment variable that overrides MAX_PIXELS
