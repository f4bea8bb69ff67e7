"""Wan 2.2's hand-over rule in exact arithmetic, apart from the product: what its steps are compared with."""

from __future__ import annotations

from fractions import Fraction

import scipy.stats

STEPS = (*range(1, 21), 25, 30, 40, 50)
SHIFTS = (1, 3, 5, 8, 9, 12)
SCHEDULERS = ("simple", "normal", "sgm_uniform", "beta")
CASES = [(steps, shift, scheduler) for scheduler in SCHEDULERS for shift in SHIFTS for steps in STEPS]
# Stated by the official rule: (steps, shift) of the simple scheduler, and how many of the steps are high-noise ones.
STATED = {(20, 8): 10, (20, 5): 8, (4, 5): 2, (20, 9): 11, (10, 1): 2}
_TIMESTEPS = 1000  # Wan2.2 wan/configs/shared_config.py: num_train_timesteps
_BOUNDARY = Fraction(900)  # wan_i2v_A14B.py: boundary = 0.900, of those


def high_noise_steps(steps: int, shift: int, scheduler: str) -> int:
    """Return how many steps of a schedule lie at timestep 900 or above (Wan2.2 wan/image2video.py)."""
    return sum(timestep >= _BOUNDARY for timestep in _timesteps(steps, shift, scheduler))


def _timesteps(steps: int, shift: int, scheduler: str) -> list[Fraction]:
    """Return the timestep of each step, as the host's scheduler of this name spaces them."""

    def shifted(time: Fraction) -> Fraction:  # Esser et al. 2024, eq. 23, times 1000
        return _TIMESTEPS * shift * time / (1 + (shift - 1) * time)

    if scheduler == "simple":
        return [shifted(Fraction(_TIMESTEPS - int(_TIMESTEPS / steps * step), _TIMESTEPS)) for step in range(steps)]
    if scheduler == "beta":
        quantiles = scipy.stats.beta.ppf([1 - step / steps for step in range(steps)], 0.6, 0.6)
        places = dict.fromkeys(int(place) for place in (quantiles * (_TIMESTEPS - 1)).round())
        return [shifted(Fraction(place + 1, _TIMESTEPS)) for place in places]
    first, last = Fraction(1), shifted(Fraction(1, _TIMESTEPS)) / _TIMESTEPS
    gaps = steps if scheduler == "sgm_uniform" else steps - 1
    return [shifted(first + (last - first) * Fraction(step, max(gaps, 1))) for step in range(steps)]
