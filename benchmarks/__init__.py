"""What ``python3 run.py bench`` runs: every module without a leading underscore is a bench with a ``run``."""
