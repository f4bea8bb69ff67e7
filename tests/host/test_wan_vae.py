"""The Wan VAE's encode and decode inside a real host's Python: equal to the host's own, and what work they save."""

import pytest
from support.in_comfyui import run_cases

ENDS = ("start and end", "start", "end", "5 start", "5 end", "2 and 7")
EVERYWHERE = ("encode", "encode dtypes", "decode", "decode dtypes", "host", "memory")
# Of the pack alone: where the bits above are the host's, the host's version changes nothing in these.
ON_THE_NEWEST = (
    *("decode, a layer that counts", "decode in blocks", "decode, the first layer"),
    *("decode memory", "work", "cache"),
)


@pytest.fixture(scope="module")
def cases(comfy_install, tmp_path_factory):
    groups = (*EVERYWHERE, *ON_THE_NEWEST) if comfy_install["newest"] else EVERYWHERE
    return run_cases(comfy_install, tmp_path_factory.mktemp("cases"), "vae_cases", *groups)


@pytest.mark.parametrize(
    "group",
    [*EVERYWHERE[:4], *(pytest.param(group, marks=pytest.mark.newest) for group in ON_THE_NEWEST[:3])],
)
def test_bit_equal_to_the_host(cases, group):
    warnings = cases[group].pop("warnings", [])
    assert cases[group]
    assert all(cases[group].values()), cases[group]
    assert warnings == []  # nothing was left to the host


@pytest.mark.newest
def test_a_decode_holds_no_more_of_a_long_clip_than_of_a_short_one(cases):
    """No copy of the latent, and nothing that is made of all of it."""
    held = cases["decode memory"]
    assert 0 < held["101"] <= held["21"]


@pytest.mark.timeout(3600)  # ten minutes of work; a slow or busy machine takes long
@pytest.mark.sweep
def test_whole_list_is_bit_equal_to_the_host(comfy_install, tmp_path):
    results = run_cases(comfy_install, tmp_path, "vae_cases", "encode all", "decode all")
    assert results["encode all"].pop("warnings") == results["decode all"].pop("warnings") == []
    expected = {f"{n} {d} {e}" for n in (17, 33, 81, 141) for d in ("fp32", "bf16") for e in ENDS}
    assert results["encode all"] == dict.fromkeys(expected, True)
    assert results["decode all"] == {f"{n} {d}": True for n in range(1, 37) for d in ("fp32", "bf16")}


@pytest.mark.newest
def test_layers_compute_only_what_is_new(cases):
    """Chunks computed of 41 and of 71: first convolution and first block, the rest of 96 and 192 channels; then of the
    21 and 36 chunks of 384 channels; then of the 11 and 19 latent frames.
    """
    early = [6, 8, 8, 10, 12, 14]
    assert cases["work"]["81"] == [*early, 10, 12, 14, 10, *[11] * 5]
    assert cases["work"]["141"] == [*early, 10, 12, 14, 10, 12, 14, 14, 16, 17]


@pytest.mark.newest
def test_the_grey_beside_a_keyframe_is_not_computed(cases):
    """A keyframe takes as many chunks as the start, but for the very first, and no more than there are: 41, 21, 11."""
    assert cases["work"]["81, a keyframe at 40"] == [11, 15, 15, 19, 23, 27, 19, 21, 21, *[11] * 6]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("another VAE class", "it is not the VAE object of ComfyUI"),
        ("another model class", "its class is another.pack.WanVAE, not comfy.ldm.wan.vae.WanVAE"),
        ("replaced on the object", "it is not the VAE object of ComfyUI"),
        ("replaced in the class", "WanVAE.encode was replaced by another pack"),
        ("hooked", "its code is patched"),
        ("patched weights", "its weights are patched"),
        ("a decoder with transparency", "its channels are not those of Wan 2.1"),
        ("a decoder of twice the size", "it is not the VAE object of ComfyUI"),
    ],
)
def test_any_other_vae_is_left_to_the_host_and_the_log_says_why(cases, case, reason):
    assert cases["host"]["as it is"] == [True, True, [], []]
    same, same_bytes, encode_log, decode_log = cases["host"][case]
    assert same
    assert same_bytes
    assert encode_log == [f"ComfyUI's own encode is used for this VAE: {reason}"]
    assert decode_log == [f"ComfyUI's own decode is used for this VAE: {reason}"]


def test_a_vae_that_makes_no_pictures_is_refused(cases):
    message, log = cases["host"]["12 channels"]
    assert message == (
        "vae makes 12 channels of each pixel, but a video needs red, green and blue. Decode with the node of the pack "
        "that this VAE is for, and connect its images instead of latent and vae."
    )
    assert log == ["ComfyUI's own decode is used for this VAE: its channels are not those of Wan 2.1"]


def test_arguments_of_newer_hosts_that_can_be_left_out_are_fine(cases):
    assert cases["host"]["an argument more that can be left out"] == [True, True, [], []]
    assert cases["host"]["an argument more"] == "VAE.encode has other arguments than expected"


def test_weights_whose_bytes_cannot_be_read_are_left_to_the_host(cases):
    same, same_bytes, encode_log, decode_log = cases["host"]["weights of their own type"]
    assert same
    assert same_bytes
    assert encode_log == [
        "the latent is not kept, its VAE cannot be told from others: UnreadableError: this type has no view",
        "self-check failed check=encode: UnreadableError: this type has no view",
        "ComfyUI's own encode is used for this VAE: its self-check failed",
    ]
    assert decode_log == []  # the decoder is as it was


def test_self_check_finds_a_layer_that_behaves_otherwise(cases):
    same, same_bytes, encode_log, decode_log = cases["host"]["a layer that counts"]
    assert same
    assert same_bytes
    assert encode_log == ["ComfyUI's own encode is used for this VAE: its self-check failed"]
    assert decode_log == []  # the decoder is as it was


def test_out_of_memory_in_the_memo_means_the_whole_encode_of_the_host(cases):
    """It needs less, and makes the same bits."""
    line = "ComfyUI's own encode is used for this VAE: memory ran out"
    assert cases["memory"]["encode, the host's fits"] == [True, [line]]


def test_out_of_memory_means_the_tiles_of_the_host(cases):
    line = "ComfyUI's own encode is used for this VAE: memory ran out"
    assert cases["memory"]["tiles are another latent"]
    assert cases["memory"]["encode"] == [True, 1, [line]]
    assert cases["memory"]["encode again"] == [True, 1, [line]]  # a tiled latent is not kept
    line = "out of memory: ComfyUI's own decode is used, in tiles if it must"
    assert cases["memory"]["decode"] == [False, True, False, [line]]


@pytest.mark.newest
def test_only_equal_content_and_vae_encode_nothing(cases):
    known = {
        "again", "same file loaded again", "other image again", "back to the first image",
        "before a weight is changed in place",
    }  # fmt: skip
    chunks = cases["cache"]
    assert {case for case, computed in chunks.items() if computed == 0} == known
    assert chunks.pop("kept") == 10  # one for each of the others, but for those off, patched, or with other code
    assert chunks["first"] == chunks["again, memoised"] == 6
    assert chunks["again, host"] == 9
