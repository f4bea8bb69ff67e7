"""How much two pictures differ: PSNR, SSIM (Wang et al. 2004) and CIEDE2000 (Sharma et al. 2005).

Pictures are [height, width, 3], sRGB, uint8 or float in 0...1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# ITU-R BT.709, item 3.2: luma from R'G'B'.
LUMA = (0.2126, 0.7152, 0.0722)
# Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, IEEE Trans. Image Processing 13 (2004), section III-B.
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
# IEC 61966-2-1, the matrix from linear sRGB to XYZ; the white is D65 as that matrix gives it.
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _TO_XYZ.sum(axis=1)
# CIE 15:2004, the line near black that the cube root gives way to.
_LAB_LINEAR_BELOW, _LAB_SLOPE = (6 / 29) ** 3, (29 / 6) ** 2 / 3
_ROWS = 64  # of a picture at a time, so that a ΔE of 4096x4096 needs no gigabyte


def as_unit(picture: Array) -> Array:
    """Return a picture as float64 in 0...1; uint8 is divided by 255."""
    if picture.dtype == np.uint8:
        return picture / 255.0
    return picture.astype(np.float64)


def luma(picture: Array) -> Array:
    """Return the BT.709 luma of a picture, [height, width] in 0...1."""
    weighed: Array = as_unit(picture) @ np.array(LUMA)
    return weighed


def psnr(a: Array, b: Array) -> float:
    """Return the peak signal-to-noise ratio in dB over all channels; infinity for equal pictures."""
    error = float(np.mean((as_unit(a) - as_unit(b)) ** 2))
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(a: Array, b: Array) -> float:
    """Return the mean structural similarity of two pictures' luma, -1...1.

    The mean is over the places where the window lies inside the picture, as in the authors' own program. A picture
    smaller than the window of 11 pixels has no such place: it is judged as one window.
    """
    x, y = luma(a), luma(b)
    if min(x.shape) < _WINDOW:
        mean_x, mean_y = x.mean(), y.mean()
        return float(_similarity(mean_x, mean_y, x.var(), y.var(), ((x - mean_x) * (y - mean_y)).mean()))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    return float(np.mean(_similarity(mean_x, mean_y, var_x, var_y, _blur(x * y) - mean_x * mean_y)))


def _similarity(mean_x: Array, mean_y: Array, var_x: Array, var_y: Array, covariance: Array) -> Array:
    c1, c2 = _K1**2, _K2**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    map_: Array = above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return map_


def _blur(plane: Array) -> Array:
    """Return the gaussian mean around each place that the window fits in."""
    steps = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(steps**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):  # along the rows, then along the columns
        length = plane.shape[0] - _WINDOW + 1
        blurred = np.zeros((length, plane.shape[1]))
        for i, weight in enumerate(weights):
            blurred += weight * plane[i : i + length]
        plane = blurred.T
    return plane


def to_linear(picture: Array) -> Array:
    """Return linear RGB of sRGB in 0...1 (IEC 61966-2-1)."""
    encoded = as_unit(picture)
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def to_lab(picture: Array) -> Array:
    """Return CIELAB under D65 of an sRGB picture: L* in 0...100, a*, b*."""
    xyz = to_linear(picture) @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > _LAB_LINEAR_BELOW, np.cbrt(xyz), _LAB_SLOPE * xyz + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(lab_a: Array, lab_b: Array) -> Array:
    """Return the CIEDE2000 difference of CIELAB colours, [..., 3] to [...].

    Sharma, Wu, Dalal: The CIEDE2000 color-difference formula, Color Research and Application 30 (2005); the numbers
    in brackets are its equations. All weights k are 1.
    """
    (l_a, a_a, b_a), (l_b, a_b, b_b) = np.moveaxis(lab_a, -1, 0), np.moveaxis(lab_b, -1, 0)
    mean_c7 = ((np.hypot(a_a, b_a) + np.hypot(a_b, b_b)) / 2) ** 7  # (2), (3)
    g = 1.5 - 0.5 * np.sqrt(mean_c7 / (mean_c7 + 25.0**7))  # 1 + G of (4)
    c_a, c_b = np.hypot(g * a_a, b_a), np.hypot(g * a_b, b_b)  # (5), (6)
    h_a, h_b = np.arctan2(b_a, g * a_a) % (2 * np.pi), np.arctan2(b_b, g * a_b) % (2 * np.pi)  # (7)
    grey = c_a * c_b == 0
    angle = h_b - h_a
    angle = np.where(grey, 0, angle - 2 * np.pi * np.sign(angle) * (np.abs(angle) > np.pi))  # (10)
    delta_h = 2 * np.sqrt(c_a * c_b) * np.sin(angle / 2)  # (11)
    mean_l, mean_c = (l_a + l_b) / 2, (c_a + c_b) / 2  # (12), (13)
    both, far = h_a + h_b, np.abs(h_a - h_b) > np.pi
    mean_h = np.where(grey, both, (both + 2 * np.pi * far * np.where(both < 2 * np.pi, 1, -1)) / 2)  # (14)
    t = (
        1
        - 0.17 * np.cos(mean_h - np.pi / 6)
        + 0.24 * np.cos(2 * mean_h)
        + 0.32 * np.cos(3 * mean_h + np.pi / 30)
        - 0.20 * np.cos(4 * mean_h - 63 * np.pi / 180)
    )  # (15)
    angle = np.exp(-(((np.degrees(mean_h) - 275) / 25) ** 2)) * np.pi / 3  # twice (16)
    r_c = 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))  # (17)
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)  # (18)
    light, chroma, hue = (l_b - l_a) / s_l, (c_b - c_a) / (1 + 0.045 * mean_c), delta_h / (1 + 0.015 * mean_c * t)
    squares: Array = np.maximum(0, light**2 + chroma**2 + hue**2 - np.sin(angle) * r_c * chroma * hue)  # (22)
    return np.asarray(np.sqrt(squares))


def mean_delta_e(a: Array, b: Array) -> float:
    """Return the mean CIEDE2000 of two pictures, pixel by pixel: about 1 is just visible, 5 is plain."""
    total = 0.0
    for top in range(0, len(a), _ROWS):
        total += float(ciede2000(to_lab(a[top : top + _ROWS]), to_lab(b[top : top + _ROWS])).sum())
    return total / float(a.shape[0] * a.shape[1])
