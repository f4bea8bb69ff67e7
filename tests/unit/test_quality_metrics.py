"""PSNR, SSIM and CIEDE2000 beside scikit-image, colour-science and the published pairs; the fit beside PyTorch's."""

import colour
import numpy as np
import pytest
import skimage.color
import skimage.metrics
import torch
from wan_flf2v.quality import metrics
from wan_flf2v.quality.fit import fitted, parse_hex_colour, resized

# Sharma, Wu, Dalal (2005), table 1: L*, a*, b* of two colours, and their difference.
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.02 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1
50 -1.1848 -84.8006 50 0 -82.7485 1
50 -0.9009 -85.5211 50 0 -82.7485 1
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.49 -0.001 50 -2.49 0.0009 7.1792
50 2.49 -0.001 50 -2.49 0.001 7.1792
50 2.49 -0.001 50 -2.49 0.0011 7.2195
50 2.49 -0.001 50 -2.49 0.0012 7.2195
50 -0.001 2.49 50 0.0009 -2.49 4.8045
50 -0.001 2.49 50 0.001 -2.49 4.8045
50 -0.001 2.49 50 0.0011 -2.49 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.903
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1
50 2.5 0 50 3.2972 0 1
50 2.5 0 50 1.8634 0.5757 1
50 2.5 0 50 3.2592 0.335 1
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.263
61.2901 3.7196 -5.3901 61.4292 2.248 -4.962 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.694 23.0331 14.973 -42.5619 2.0373
36.4612 47.858 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.441 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.135 0.9033 -0.0636 -0.5514 0.9082
"""


def pictures(height=90, width=130, noise=12):
    """Two pictures, uint8: smooth colours, and the same with noise."""
    rng = np.random.default_rng(7)
    smooth = resized(rng.uniform(0, 255, (6, 8, 3)), width, height)
    noisy = smooth + rng.normal(0, noise, smooth.shape)
    return tuple(np.clip(np.round(one), 0, 255).astype(np.uint8) for one in (smooth, noisy))


def test_psnr_is_that_of_scikit_image():
    a, b = pictures()
    assert metrics.psnr(a, b) == pytest.approx(skimage.metrics.peak_signal_noise_ratio(a, b), abs=1e-6)
    assert metrics.psnr(a, a) == float("inf")


@pytest.mark.parametrize("size", [(90, 130), (11, 40), (64, 11)])
@pytest.mark.parametrize("noise", [2, 12, 60])
def test_ssim_is_that_of_scikit_image(size, noise):
    a, b = (metrics.luma(one) for one in pictures(*size, noise))
    expected = skimage.metrics.structural_similarity(
        a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, K1=0.01, K2=0.03
    )
    assert metrics.ssim(*pictures(*size, noise)) == pytest.approx(expected, abs=1e-8)


def test_ssim_of_pictures_smaller_than_its_window():
    a, b = pictures(8, 30)
    assert metrics.ssim(a, a) == pytest.approx(1)
    assert 0 < metrics.ssim(a, b) < 1


@pytest.mark.parametrize("line", SHARMA.split("\n")[1:-1])
def test_ciede2000_of_the_published_pairs(line):
    numbers = np.array(line.split(), float)
    for a, b in ((numbers[:3], numbers[3:6]), (numbers[3:6], numbers[:3])):
        assert metrics.ciede2000(a, b) == pytest.approx(numbers[6], abs=5e-5)


def test_ciede2000_is_that_of_both_libraries():
    rng = np.random.default_rng(3)
    a, b = (np.stack([rng.uniform(0, 100, 5000), *rng.uniform(-110, 110, (2, 5000))], -1) for _ in range(2))
    ours = metrics.ciede2000(a, b)
    assert np.allclose(ours, skimage.color.deltaE_ciede2000(a, b), atol=1e-9)
    assert np.allclose(ours, colour.delta_E(a, b, method="CIE 2000"), atol=1e-9)


def test_lab_is_that_of_colour_science():
    picture, _ = pictures()
    white = np.array([0.9505, 1, 1.089])  # of IEC 61966-2-1's own matrix; colour-science's own has one digit more
    xyz = colour.sRGB_to_XYZ(picture / 255.0)
    expected = colour.XYZ_to_Lab(xyz, colour.XYZ_to_xy(white))
    assert np.allclose(metrics.to_lab(picture), expected, atol=0.05)
    grey = metrics.to_lab(np.full((1, 1, 3), 128, np.uint8))[0, 0]
    assert grey == pytest.approx([53.585, 0, 0], abs=1e-3)


def test_mean_delta_e_is_that_of_both_libraries():
    a, b = pictures(150, 90)  # more rows than are taken at a time
    ours = metrics.mean_delta_e(a, b)
    by_skimage = skimage.color.deltaE_ciede2000(skimage.color.rgb2lab(a), skimage.color.rgb2lab(b)).mean()
    assert ours == pytest.approx(by_skimage, rel=1e-3)  # whose matrix has two digits more
    by_colour = colour.delta_E(*(colour.XYZ_to_Lab(colour.sRGB_to_XYZ(x / 255.0)) for x in (a, b)), method="CIE 2000")
    assert ours == pytest.approx(by_colour.mean(), rel=1e-4)
    assert metrics.mean_delta_e(a, a) == 0


@pytest.mark.parametrize("size", [(90, 130), (33, 40), (200, 77), (45, 300), (1, 1), (361, 641)])
def test_the_resize_is_that_of_pytorch(size):
    picture = pictures()[0] / 255.0
    planes = torch.from_numpy(picture).movedim(-1, 0).unsqueeze(0)
    expected = torch.nn.functional.interpolate(planes, size=size, mode="bilinear")[0].movedim(0, -1).numpy()
    assert np.abs(resized(picture, size[1], size[0]) - expected).max() < 1e-9


def test_transparent_images_lie_on_the_background():
    image = np.zeros((4, 6, 4), np.uint8)
    image[..., 0], image[:, :3, 3] = 255, 255
    made = fitted(image, 6, 4, "crop", (0.0, 0.0, 1.0))
    assert (made[:, :3] == (1, 0, 0)).all()
    assert (made[:, 3:] == (0, 0, 1)).all()


def test_padded_images_lie_in_the_middle():
    made = fitted(np.full((10, 10, 3), 255, np.uint8), 40, 10, "pad", (0.0, 0.5, 0.0))
    assert (made[:, 15:25] == 1).all()
    assert (made[:, :15] == (0, 0.5, 0)).all()
    assert (made[:, 25:] == (0, 0.5, 0)).all()


def test_a_colour_is_six_hexadecimal_digits():
    assert parse_hex_colour("background", " #ff0033 ") == (1, 0, 0.2)
    with pytest.raises(ValueError, match="background is '#ff00', but must be a colour like #000000"):
        parse_hex_colour("background", "#ff00")
