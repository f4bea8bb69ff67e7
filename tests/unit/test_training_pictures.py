"""The pictures that the demo's models are trained and judged on."""

from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.training.pictures import attribution


def test_the_model_card_names_every_picture():
    assert attribution() in (REPO / "demo" / "models" / "README.md").read_text("utf-8")
