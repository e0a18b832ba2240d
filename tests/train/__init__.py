from train import cpu  # noqa: F401  (before any test imports something of torchtitan)
