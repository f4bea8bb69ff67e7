"""The pictures that the demo's models are trained and judged on."""

import pytest
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.training import pictures


def test_the_model_card_names_every_picture():
    assert pictures.attribution() in (REPO / "demo" / "models" / "README.md").read_text("utf-8")


def test_a_package_without_a_picture_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "open_package", lambda package, folder: {}.__getitem__)
    picture = pictures.PICTURES[-1]
    with pytest.raises(
        pictures.GatherError, match=f"^{picture.package} has no picture {picture.file} that can be read"
    ):
        pictures.gather(tmp_path, print, [picture])
