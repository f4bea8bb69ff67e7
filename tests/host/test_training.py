"""The training room: seconds of training inside ComfyUI's Python that prove its parts."""

import subprocess
import sys

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from support.in_comfyui import run_cases
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.demo.__main__ import WORDS
from wan_flf2v.training.__main__ import SEED, STAGES, VAE_STAGES
from wan_flf2v.training.transitions import TRANSITIONS

VAE_CURVES = [f"{stage}.png" for stage in sorted(VAE_STAGES)]


@pytest.fixture(scope="module")
def cases(comfy_install, tmp_path_factory):
    return run_cases(comfy_install, tmp_path_factory.mktemp("training"), "training_cases")


def test_whole_clip_form_equals_the_hosts_chunked_vae(cases):
    assert len(cases["whole clip"]) == 8
    assert max(cases["whole clip"].values()) < 1e-5, cases["whole clip"]


def test_muon_steps_as_torchs_own_does(cases):
    assert set(cases["muon"]) == {"24x60", "60x24"}
    assert max(cases["muon"].values()) < 0.05, cases["muon"]


def test_a_checkpoint_resumes_bit_for_bit(cases):
    training = cases["training"]
    assert (training["resumed"], training["resumed at"], training["resumes bit for bit"]) == (True, 3, True)
    assert training["lines before the checkpoint"] == '{"step": 2}\n', "steps that are made again are logged again"
    assert training["out of time"] == [0, True], "without time it makes no step, and leaves a checkpoint"


def test_an_expert_resumes_bit_for_bit(cases):
    assert (cases["experts"]["resumed at"], cases["experts"]["resumes bit for bit"]) == (1, True)


def test_the_next_stage_wants_a_finished_one(cases):
    assert cases["training"]["half a stage"] == "the stage vae-images stands at step 0 of 24: finish it"


def test_the_loss_falls(cases):
    assert cases["training"]["loss ratio"] < 0.5
    first, last = cases["experts"]["loss"]
    assert last < 0.8 * first
    assert 0 < cases["experts"]["bfloat16"] < 10
    assert cases["training"]["logged"] == ["cpu_seconds", "loss", "psnr", "seconds", "step"]


def test_the_decoder_stage_leaves_the_latents_as_they_are(cases):
    assert cases["training"]["encoder stays"] and cases["training"]["decoder moves"]


def test_the_exported_vae_has_the_hosts_latent_statistics(cases):
    export = cases["export"]
    assert export["latents in the host's format"] < 1e-4
    assert export["decodes as before"] < 1e-4
    assert export["ComfyUI loads the VAE"] < 5e-3, "float16 weights are as far off as their digits"


def test_training_goes_on_from_exported_models(cases):
    assert cases["export"]["training goes on from it"] < 5e-3, "the exported VAE has float16 weights"


@pytest.mark.parametrize("images", ["both", "start", "end"])
def test_experts_learn_from_the_conditioning_that_node_67_gives(cases, images):
    assert cases["export"][f"conditioning {images}"] < 5e-3, "the exported VAE has float16 weights"


def test_a_keyframe_is_channel_3_of_its_latent_frame(cases):
    export = cases["export"]
    assert export["key in the mask"] == [[3, 2]]
    assert export["key changes the image latent"]
    assert export["key leaves the past"] == 0


def test_all_stages_of_the_command_make_models_that_comfyui_loads(cases):
    command = cases["command"]
    assert command["without time"] is False
    assert command["stages"] == [True] * len(STAGES[1:])
    assert command["exported"] == [*(f"{stage}.png" for stage in ("high", "low")), "pictures.md", *VAE_CURVES]
    assert command["high loads"] == command["low loads"] == "WAN21"
    assert {"loss", "psnr", "seconds", "step", "vae_psnr", "vae_psnr_worst", "clip_circle"} <= set(command["last line"])


def test_latents_of_an_older_encoder_are_refused(cases):
    assert "the VAE's encoder was trained after the latents in " in cases["command"]["old latents"]


def test_another_seed_has_other_pairs(cases):
    assert cases["experts"]["a seed has its pairs"] == [True, False]


def test_latents_go_on_where_they_stopped(cases):
    experts = cases["experts"]
    assert (experts["pairs before the time was up"], experts["all pairs"], experts["kept"]) == (2, 3, True)
    assert experts["example"] and all(experts["example"])


def test_an_exported_expert_predicts_in_comfyui_as_in_training(cases):
    """Also shows that one padding token with a bias stands for all of them."""
    assert cases["experts"]["loads"] < 1e-3
    assert cases["experts"]["prompts"] == sorted(TRANSITIONS)


def test_the_demo_offers_every_word():
    assert set(WORDS) == set(TRANSITIONS)


def test_transitions_begin_and_end_on_their_pictures(cases):
    assert set(cases["transitions"]) == set(TRANSITIONS)
    for word, (start, end, moved) in cases["transitions"].items():
        assert max(start, end) < 1e-5, word
        assert moved > 0.01, word


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--stage", "vae"), 2, "invalid choice: 'vae'"),
        (("--stage", "vae-clips"), 1, "the stage vae-images has left nothing in "),
        (("--stage", "high"), 1, "0 of 160 pairs in "),
        (("--stage", "vae-clips", "--start-from", "nowhere"), 1, "--start-from nowhere: there is no vae/demo_wan_vae"),
    ],
)
def test_a_stage_that_cannot_run_says_why(project_comfyui, tmp_path, arguments, code, message):
    command = (sys.executable, "-I", "-m", "wan_flf2v.training", "--comfyui", project_comfyui)
    done = subprocess.run(
        [*command, "--work", tmp_path / "work", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr


def test_a_training_goes_on_as_it_began(project_comfyui, tmp_path):
    """With models it draws other pictures than they have seen: its seed is another."""
    command = (sys.executable, "-I", "-m", "wan_flf2v.training", "--comfyui", project_comfyui, "--work", tmp_path)
    models = ("--start-from", REPO / "demo" / "models")
    for arguments, code in ((models, 0), ((), 1), (models, 0)):
        done = subprocess.run(
            [*command, "--stage", "vae-images", "--minutes", "0", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert (f"the training in {tmp_path} was begun with other models" in done.stdout) == (code == 1)
    assert (tmp_path / "seed.txt").read_text("utf-8") != str(SEED)


def test_what_was_not_trained_is_exported_as_it_was(project_comfyui, tmp_path):
    """So the decoder alone can be trained further: the experts to start from know its latents."""
    models = REPO / "demo" / "models"
    command = (sys.executable, "-I", "-m", "wan_flf2v.training", "--comfyui", project_comfyui, "--work", tmp_path)
    subprocess.run([*command, "--stage", "export", "--start-from", models], capture_output=True, check=True)
    files = sorted(path.relative_to(models) for path in models.rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        before, after = load_file(models / file), load_file(tmp_path / "export" / file)
        assert before.keys() == after.keys()
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=2e-3, atol=1e-6)


def test_two_trainings_do_not_share_a_folder(project_comfyui, tmp_path):
    command = (sys.executable, "-I", "-m", "wan_flf2v.training", "--comfyui", project_comfyui, "--work", tmp_path)
    with FileLock(tmp_path / "training.lock"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"another training runs in {tmp_path}: wait for it or stop it" in done.stdout
