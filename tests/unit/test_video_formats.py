"""Every format that this machine writes, from one clip, read back by programs that are not this project's."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image
from support.media import decoded, described, ffmpeg, pictures, samples, seconds
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.gateway.jobs.results import _first_frame
from wan_flf2v.quality.video_file import open_video
from wan_flf2v.video import audio, formats, tags
from wan_flf2v.video.audio import Sound
from wan_flf2v.video.formats import BY_NAME, FORMATS, Format
from wan_flf2v.video.names import remove_leftovers, reserved
from wan_flf2v.video.pictures import to_picture, to_planar_bytes
from wan_flf2v.video.settings import Settings, encoder_options, exact_rate
from wan_flf2v.video.writer import new_writer

WIDTH, HEIGHT, FRAMES = 128, 96, 33
RATE = Fraction(24000, 1001)
TAGS = {
    "prompt": {"57": {"inputs": {"noise_seed": 5}}},
    "workflow": {"note": "größer"},
    "wan_flf2v": {"frames": FRAMES},
}
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1), "skin": (0.91, 0.76, 0.65)}
WRITTEN = [one for one in FORMATS if formats.works(one)]
VIDEOS = [one for one in WRITTEN if one.container not in ("gif", "webp", "")]
LUMA = np.array([0.2126, 0.7152, 0.0722])  # of BT.709
OPAQUE = 0.75  # of the width is; the rest fades

# What ffmpeg says of a file: the codec with its tag, and the pixels with their range and colours.
SRGB = r"\(pc, gbr/bt709/iec61966-2-1[,)]"
SAID = {
    "mp4 H.264": r"h264 \(High\) \(avc1 .*yuv420p\(tv, bt709[,)]",
    "mp4 H.264 4:4:4": r"h264 \(High 4:4:4 Predictive\) \(avc1 .*yuv444p\(tv, bt709[,)]",
    "mp4 H.264 10-bit": r"h264 \(High 10\) \(avc1 .*yuv420p10le\(tv, bt709[,)]",
    "mp4 H.265": r"hevc \(Main\) \(hvc1 .*yuv420p\(tv, bt709[,)]",
    "mp4 H.265 10-bit": r"hevc \(Main 10\) \(hvc1 .*yuv420p10le\(tv, bt709[,)]",
    "mp4 AV1": r"av1 .*\(Main\) \(av01 .*yuv420p10le\(tv, bt709[,)]",
    "webm AV1": r"av1 .*\(Main\), yuv420p10le\(tv, bt709[,)]",
    "webm VP9": r"vp9 \(Profile 0\), yuv420p\(tv, bt709[,)]",
    "mov ProRes 422 HQ": r"prores \(HQ\) \(apch .*yuv422p10le\(tv, bt709[,)]",
    "mov ProRes 4444": r"prores \(4444\) \(ap4h .*yuv444p12le\(tv, bt709[,)]",  # its decoder gives 12 bits
    "mkv FFV1": "ffv1.* bgr0" + SRGB,
    "mkv FFV1 16-bit": "ffv1.* gbrp16le" + SRGB,
    "gif": "gif, bgra,",
    "webp": "webp.*, argb,",
    "png sequence": r"png, rgb24\(pc, gbr/",
    "png sequence 16-bit": r"png, rgb48be\(pc, gbr/",
}
SAID_WITH_ALPHA = {
    "webm VP9": r"vp9 .*yuva420p\(tv, bt709[,)]",
    "mov ProRes 4444": r"prores \(4444\) \(ap4h .*yuva444p12le\(tv, bt709[,)]",
    "mkv FFV1": "ffv1.* bgra" + SRGB,
    "mkv FFV1 16-bit": "ffv1.* gbrap16le" + SRGB,
    "webp": "webp.*, argb,",
    "png sequence": r"png, rgba\(pc, gbr/",
    "png sequence 16-bit": r"png, rgba64be\(pc, gbr/",
}


@pytest.fixture(autouse=True)
def an_ordinary_thread():
    """SVT-AV1, called by a test itself, makes this one a real-time thread for root, and what it starts later too."""
    yield
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def clip(alpha=False):
    """Return frames of gradients, primaries, skin and fine noise, float [frames, channels, height, width]."""
    across, down = torch.linspace(0, 1, WIDTH), torch.linspace(0, 1, HEIGHT).view(-1, 1)
    made = torch.stack([across.expand(HEIGHT, WIDTH), down.expand(HEIGHT, WIDTH), (across * down)]).repeat(
        FRAMES, 1, 1, 1
    )
    made[:, :, 32:64, 64:] = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    for number, colour in enumerate(COLOURS.values()):
        made[:, :, :24, 24 * number : 24 * number + 24] = torch.tensor(colour).float().view(3, 1, 1)
    for number in range(FRAMES):
        made[number, :, 70:90, 3 * number : 3 * number + 20] = number / FRAMES
    if alpha:
        fade = ((1 - across) / (1 - OPAQUE)).clamp(max=1).expand(FRAMES, 1, HEIGHT, WIDTH)
        made = torch.cat([made, fade], 1)
    return made


# An encoder's first block of 1,024 samples, heard as if it were sound, is 45 hundredths of this tone's period.
TONE = 450


def tone(lasts, rate=44100):
    wave = 0.5 * torch.sin(2 * torch.pi * TONE * torch.arange(round(lasts * rate)) / rate)
    return Sound(torch.stack([wave, -wave]), rate)


def write(folder, chosen, frames, **settings):
    """Write the frames and return the path."""
    path = folder / f"clip{chosen.suffix}"
    settings = {"tags": TAGS, **settings}
    made = Settings(RATE, chosen, alpha=frames.shape[1] == 4, frames=len(frames), **settings)
    if not made.takes_floats:
        frames = to_planar_bytes(frames)
    with new_writer(path, frames.shape[3], frames.shape[2], made) as writer:
        if made.looks_twice:
            for frame in frames:
                writer.look(frame)
        for frame in frames:
            writer.write(frame)
        writer.flush()
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Give each format's file, written once."""
    known = {}

    def file(chosen):
        if chosen not in known:
            sound = tone(1).lasting(FRAMES / RATE) if chosen.audio else None
            known[chosen] = write(tmp_path_factory.mktemp("format"), chosen, clip(), sound=sound, loops=3)
        return known[chosen]

    return file


def rgb(chosen, path):
    """Return what is in a file, float 0...1."""
    if chosen.container in ("gif", "webp"):
        return pictures(path, "RGB")[0] / 255
    if path.is_dir():
        return np.stack([decoded(file, "rgb48le", (WIDTH, HEIGHT))[0] / 65535 for file in sorted(path.iterdir())])
    return decoded(path, "rgb24", (WIDTH, HEIGHT)) / 255


def psnr(a, b):
    return 10 * np.log10(1 / np.mean((a - b) ** 2))


def each(chosen):
    return pytest.mark.parametrize("chosen", chosen, ids=lambda one: one.name)


def first_file(path):
    """Return the file, or the first one of a folder."""
    return min(path.iterdir()) if path.is_dir() else path


def test_the_formats_of_the_table_are_written_here():
    """All but those of hardware: a build of PyAV without one of them would hide it from the tests below."""
    assert [one.name for one in FORMATS if not one.hardware] == [one.name for one in WRITTEN if not one.hardware]


@each(WRITTEN)
def test_frames_come_back_in_order_and_alike(files, chosen):
    source, written = clip().movedim(1, -1).numpy(), rgb(chosen, files(chosen))
    assert written.shape == source.shape
    apart = [psnr(a @ LUMA, b @ LUMA) for a, b in zip(written, source, strict=True)]
    assert min(apart) > {"gif": 25, "webp": 30}.get(chosen.container, 36)
    moving = slice(70, 90)
    nearest = [int(np.argmin(np.abs(source[:, moving] - frame[moving]).mean((1, 2, 3)))) for frame in written]
    assert nearest == list(range(FRAMES))


def written_as_by_videohelpersuite(path, chosen, frames):
    """Write frames of bytes, or of 16 bits where the format has more than 8, that swscale converts by its defaults."""
    kind, pixels = (np.uint16, "rgb48le") if chosen.bits > 8 else (np.uint8, "rgb24")
    codes = (frames.movedim(1, -1).double() * np.iinfo(kind).max).round().numpy().astype(kind)
    with av.open(str(path), "w", format=chosen.container, options=dict(chosen.container_options)) as container:
        stream = container.add_stream(chosen.encoder, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, chosen.pixels
        stream.options = encoder_options(Settings(RATE, replace(chosen, lookahead=0), frames=len(frames)))
        options = {"interpolation": Interpolation.BICUBIC}  # the ffmpeg program's own
        if chosen.is_yuv:
            options |= {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
            context = stream.codec_context
            context.color_range = ColorRange.MPEG
            context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
        for frame in codes:
            picture = av.VideoFrame.from_ndarray(frame, pixels)
            container.mux(stream.encode(picture.reformat(format=chosen.pixels, **options)))
        container.mux(stream.encode(None))


@each(VIDEOS)
def test_a_file_is_no_worse_and_no_larger_than_by_videohelpersuites_steps(tmp_path, chosen):
    """With the same libraries. `bench formats` compares at full size, and the pictures too."""
    source, theirs = clip(), tmp_path / f"theirs{chosen.suffix}"
    written_as_by_videohelpersuite(theirs, chosen, source)
    ours = write(tmp_path, chosen, source, tags={})
    exact = source.movedim(1, -1).numpy()
    assert psnr(rgb(chosen, ours), exact) >= psnr(rgb(chosen, theirs), exact) - 0.02
    colour_tags = 200
    assert ours.stat().st_size <= 1.01 * theirs.stat().st_size + colour_tags


@each(WRITTEN)
def test_primaries_and_skin_are_within_two_codes(files, chosen):
    written = rgb(chosen, files(chosen)) * 255
    for number, colour in enumerate(COLOURS.values()):
        patch = written[:, 8:16, 24 * number + 8 : 24 * number + 16].mean((1, 2))
        assert np.abs(patch - np.array(colour) * 255).max() <= 2.0, (number, patch)


@each([BY_NAME["mp4 H.264"], BY_NAME["mp4 H.264 10-bit"], BY_NAME["mkv FFV1"]])
def test_the_report_and_the_api_see_the_colours_of_a_file(files, chosen):
    """An older PyAV gives RGB in the range of the file if nothing is said: black is 16 then."""
    written = rgb(chosen, files(chosen))[0] * 255
    with open_video(files(chosen)) as video:
        _, reported = next(video.frames)
    for seen in (reported, np.asarray(_first_frame(files(chosen)))):
        assert np.abs(seen.astype(float) - written).mean() < 3


@each(WRITTEN)
def test_codec_pixels_and_colours_are_as_the_table_says(files, chosen):
    said = described(first_file(files(chosen)))
    assert re.search(r"Video: " + SAID[chosen.name], said), said
    assert f"{WIDTH}x{HEIGHT}" in said


@each(VIDEOS)
def test_a_video_lasts_as_long_as_its_frames(files, chosen):
    lasts, tick = seconds(files(chosen))
    assert abs(lasts - FRAMES / RATE) <= tick
    assert re.search(r"23\.98 (fps|tbr)", described(files(chosen)))


@each([one for one in WRITTEN if one.bits == 8 and one.encoder in ("ffv1", "png")])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_bytes_come_back_bit_for_bit(tmp_path, chosen, alpha):
    source = clip(alpha)
    path = write(tmp_path, chosen, source)
    pixels = "rgba" if alpha else "rgb24"
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    written = np.concatenate([decoded(one, pixels, (WIDTH, HEIGHT)) for one in found])
    assert np.array_equal(written, to_planar_bytes(source).movedim(1, -1))


@each([one for one in WRITTEN if one.bits == 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_sixteen_bits_come_back_bit_for_bit(tmp_path, chosen, alpha):
    source = clip(alpha)
    path = write(tmp_path, chosen, source)
    exact = (source.double() * 65535).round().movedim(1, -1).numpy()
    pixels = "rgba64le" if alpha else "rgb48le"
    found = [path] if path.is_file() else sorted(path.iterdir())
    written = np.concatenate([decoded(one, pixels, (WIDTH, HEIGHT)) for one in found])
    assert np.abs(written - exact).max() <= 1
    assert (written != exact).mean() < 1e-3  # in float32 a value may be just across a half


@each([one for one in WRITTEN if one.alpha])
def test_transparency_comes_back(tmp_path, chosen):
    source = clip(alpha=True)
    path = write(tmp_path, chosen, source)
    decoder = "libvpx-vp9" if chosen.encoder == "libvpx-vp9" else None
    said = ffmpeg(*(("-c:v", decoder) if decoder else ()), "-i", first_file(path))[1]
    assert re.search(r"Video: " + SAID_WITH_ALPHA[chosen.name], said), said
    if chosen.container == "webp":
        written = pictures(path, "RGBA")[0] / 255
    elif path.is_dir():
        files = sorted(path.iterdir())
        written = np.stack([decoded(file, "rgba64le", (WIDTH, HEIGHT))[0] / 65535 for file in files])
    else:
        assert re.search(r"alpha_mode +: 1", said, re.I) or decoder is None  # what browsers look at
        written = decoded(path, "rgba", (WIDTH, HEIGHT), decoder) / 255
    allowed = 0.06 if decoder else 0.01
    assert np.abs(written[..., 3] - source[:, 3].numpy()).max() <= allowed
    for number, colour in enumerate(list(COLOURS.values())[:4]):  # where it is opaque
        patch = written[:, 8:16, 24 * number + 8 : 24 * number + 16, :3].mean((1, 2))
        assert np.abs(patch - np.array(colour)).max() <= 2 / 255, (number, patch)


@each(VIDEOS)
def test_sound_is_as_long_as_the_frames_and_in_step(files, chosen):
    heard, rate = samples(files(chosen))
    allowed = 1 if chosen.audio in ("pcm_s16le", "flac") else 1024  # AAC and Opus end with their last block
    assert abs(len(heard) - FRAMES / RATE * rate) <= allowed
    first = heard[: rate // 2, 0]
    expected = 0.5 * np.sin(2 * np.pi * TONE * np.arange(len(first)) / rate)
    lags = range(-rate // (2 * TONE), rate // (2 * TONE))
    middle = slice(rate // 4, rate // 3)
    best = max(lags, key=lambda lag: float(np.dot(np.roll(first, lag)[middle], expected[middle])))
    assert abs(best) <= 0.0005 * rate


@pytest.mark.parametrize("channels", range(3, 9))
@each([BY_NAME[name] for name in ("mp4 H.264", "webm VP9", "mov ProRes 422 HQ", "mkv FFV1")])
def test_each_channel_of_a_sound_stays_where_it_is(tmp_path, chosen, channels):
    """The fourth of six and more is the one for low tones, which cuts off all others."""
    tones = torch.tensor([300, 400, 500, 60, 700, 800, 900, 1000])[:channels].view(-1, 1)
    sound = Sound(0.5 * torch.sin(2 * torch.pi * tones * torch.arange(24_000) / 48_000), 48_000)
    heard, rate = samples(write(tmp_path, chosen, clip()[:12, :, :32, :64], sound=sound))
    spectrum = np.abs(np.fft.rfft(heard[: rate // 2] * np.hanning(rate // 2)[:, None], axis=0))
    assert np.abs(spectrum.argmax(0) * 2 - tones[:, 0].numpy()).max() <= 2


def test_a_sound_that_its_encoder_refuses_is_not_blamed_on_the_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(audio._LAYOUTS, 3, "2.1")
    sound = Sound(torch.zeros(3, 4800), 48_000)
    with pytest.raises(ValueError, match=r"audio has 3 channels at 48000 .* but libopus refuses 2\.1 at 48000"):
        write(tmp_path, BY_NAME["webm VP9"], clip()[:2], sound=sound)
    assert list(tmp_path.iterdir()) == []


def test_a_sound_that_is_shorter_than_the_frames_begins_again(tmp_path):
    """As the frames do that are in a file several times."""
    once = torch.linspace(-0.5, 0.5, 4004).expand(2, -1)  # two frames' time
    heard, _ = samples(write(tmp_path, BY_NAME["mkv FFV1"], clip()[:6], sound=Sound(once, 48_000)))
    assert np.abs(heard - np.tile(once.T.numpy(), (3, 1))).max() < 1e-4


def test_what_is_no_number_in_a_sound_is_silence():
    waveform = torch.tensor([[[0.25, float("nan"), float("inf"), float("-inf"), 2.0]]])
    sound = audio.sound_of({"waveform": waveform, "sample_rate": 8000}, 0)
    assert sound.samples.tolist() == [[0.25, 0.0, 1.0, -1.0, 1.0]]


@each(VIDEOS)
def test_tags_of_a_container_are_read_by_ffmpeg(files, chosen):
    said = described(files(chosen))
    assert re.search(r"prompt +: " + re.escape(json.dumps(TAGS["prompt"])), said, re.I), said
    assert re.search(r"workflow +: " + re.escape(json.dumps(TAGS["workflow"])), said, re.I), said
    assert re.search(r"wan_flf2v +: " + re.escape(json.dumps(TAGS["wan_flf2v"])), said, re.I), said


def test_tags_of_pictures_are_where_comfyui_reads_them(files):
    """SaveImage's text chunks, SaveAnimatedWEBP's EXIF, and a GIF's comment, which ComfyUI does not read."""
    texts = {key: json.dumps(value) for key, value in TAGS.items()}
    for name in ("png sequence", "png sequence 16-bit"):
        for path in files(BY_NAME[name]).iterdir():
            assert Image.open(path).text == texts
            assert Image.open(path).info["srgb"] == 0
    exif = Image.open(files(BY_NAME["webp"])).getexif()
    assert exif[0x0110] == "prompt:" + texts["prompt"]
    assert sorted(exif.values()) == sorted(f"{key}:{text}" for key, text in texts.items())
    said = described(files(BY_NAME["gif"]))
    assert json.dumps(TAGS) in said, said


def test_a_gif_and_a_webp_play_as_long_and_as_often_as_said(files):
    for name, tick, repeats in (("gif", 0.01, 2), ("webp", 0.001, 3)):
        path = files(BY_NAME[name])
        _, shown = pictures(path, "RGB")
        assert abs(sum(shown) - float(FRAMES / RATE)) <= tick * 1.01, name
        assert Image.open(path).info["loop"] == repeats, name  # a GIF says how often it plays again


@pytest.mark.parametrize(("loops", "stored"), [(0, 0), (1, None), (2, 1)])
def test_a_gifs_loops(tmp_path, loops, stored):
    path = write(tmp_path, BY_NAME["gif"], clip()[:3], loops=loops)
    assert Image.open(path).info.get("loop") == stored


def test_a_webp_of_one_frame_has_its_tags(tmp_path):
    path = write(tmp_path, BY_NAME["webp"], clip(alpha=True)[:1])
    image = Image.open(path)
    assert (image.size, image.mode) == ((WIDTH, HEIGHT), "RGBA")
    assert image.getexif()[0x0110].startswith("prompt:{")


def test_a_webp_has_of_each_frame_only_what_changes(tmp_path):
    """And what becomes transparent shows nothing of the frame before."""
    still = clip(alpha=True)[:1].repeat(4, 1, 1, 1)
    still[2:, :, 41:50, 33:44] = torch.tensor([0.2, 0.4, 0.6, 0.0]).view(4, 1, 1)
    path = write(tmp_path, BY_NAME["webp"], still, quality=95)
    written, shown = pictures(path, "RGBA")
    assert np.array_equal(written[1], written[0])
    assert np.array_equal(written[3], written[2])
    assert np.array_equal(written[2, :, :, 3] == 0, still[2, 3].numpy() == 0)
    changed = (written[2] != written[0]).any(-1)
    assert not changed[:40].any() and not changed[50:].any() and not changed[:, :32].any() and not changed[:, 44:].any()
    assert abs(sum(shown) - float(4 / RATE)) <= 0.001
    size = path.stat().st_size
    assert size < write(tmp_path, BY_NAME["webp"], still[:1], quality=95).stat().st_size + 1000


def test_what_hardly_changes_is_stored_once_it_has_added_up(tmp_path):
    """As in other animated WebPs: a code of noise everywhere would store every frame whole. Here grey gets lighter."""
    lighter = torch.linspace(100, 140, 41).div(255).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    written, _ = pictures(write(tmp_path, BY_NAME["webp"], lighter), "RGB")
    apart = np.abs(written.astype(float) - 255 * lighter.movedim(1, -1).numpy()).mean((1, 2, 3))
    assert apart.max() <= 5
    assert 5 <= len(np.unique(written[:, 32, 32, 0])) <= 10


def test_errors_of_a_slow_pan_do_not_add_up_in_a_webp(tmp_path):
    """As they do in FFmpeg's own animated WebP."""
    photograph = np.asarray(Image.open(REPO / "demo" / "images" / "start.jpg").convert("RGB").resize((320, 180)))
    wide = torch.from_numpy(photograph / np.float32(255)).movedim(-1, 0)
    panned = torch.stack([wide[:, :, i : i + 256] for i in range(24)])
    written, _ = pictures(write(tmp_path, BY_NAME["webp"], panned), "RGB")
    likeness = [psnr(a / 255, b) for a, b in zip(written, panned.movedim(1, -1).numpy(), strict=True)]
    assert likeness[-1] > likeness[0] - 0.5


@each([one for one in WRITTEN if one.container in ("webp", "")])
def test_two_thousand_frames_of_pictures_are_in_order(tmp_path, chosen):
    grey = torch.arange(2000).remainder(128).mul(2).div(255).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    path = write(tmp_path, chosen, grey)
    if path.is_dir():
        files = sorted(path.iterdir())
        shown = [np.asarray(Image.open(file))[4, 4, 0] for file in files[:: len(files) - 1]]
        assert (len(files), shown) == (2000, [0, 1999 % 128 * 2])
        return
    written, lasts = pictures(path, "RGB")
    assert abs(sum(lasts) - float(2000 / RATE)) <= 0.001
    assert np.abs(written[:, 4, 4, 0].astype(float) - 255 * grey[:, 0, 4, 4].numpy()).max() <= 6


@each([one for one in WRITTEN if one.block == (1, 1)])
def test_odd_sizes(tmp_path, chosen):
    """Those that share colour between pixels are cropped before, by the node."""
    path = write(tmp_path, chosen, clip()[:3, :, :95, :127])
    assert "127x95" in described(first_file(path))


def test_luma_of_ten_bits_is_bt709_of_the_floats(tmp_path):
    """Within rounding, and not to one side: what 8 bits or another white would give is 0.5 codes and more off."""
    grey = torch.linspace(0, 1, WIDTH).expand(1, 3, HEIGHT, WIDTH)
    path = write(tmp_path, BY_NAME["mp4 H.264 10-bit"], grey, crf=1)
    raw, _ = ffmpeg("-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray10le", "-vf", "extractplanes=y", "-")
    luma = np.frombuffer(raw, "<u2").reshape(HEIGHT, WIDTH).astype(float)
    apart = luma - (64 + 876 * grey[0, 0].numpy())
    assert abs(apart.mean()) < 0.1
    assert np.abs(apart).max() < 3.5  # what the encoder leaves


@pytest.mark.parametrize("moves_folders", [True, False])
def test_the_name_of_a_png_sequence_is_never_free(tmp_path, monkeypatch, moves_folders):
    """Else another process takes it, and the first to finish loses its pictures."""
    free = []
    remove = Path.rmdir
    monkeypatch.setattr(Path, "rmdir", lambda path: (remove(path), free.append(path)))
    monkeypatch.setattr("wan_flf2v.video.whole_file._MOVES_FOLDERS", moves_folders)
    with reserved(tmp_path, "clip", 1, "") as path:
        chosen = BY_NAME["png sequence"]
        with new_writer(path, WIDTH, HEIGHT, Settings(RATE, chosen, frames=3)) as made:
            for frame in to_planar_bytes(clip()[:3]):
                made.write(frame)
            made.flush()
    assert free == []
    assert sorted(file.name for file in path.iterdir()) == ["00001.png", "00002.png", "00003.png"]
    assert list(tmp_path.iterdir()) == [path]


KILLED_WHILE_MOVED = """
import os, signal, sys
from fractions import Fraction
from pathlib import Path
import torch
from wan_flf2v.video import settings, whole_file, writer
from wan_flf2v.video.formats import BY_NAME
from wan_flf2v.video.names import reserved
whole_file._MOVES_FOLDERS = False
replace, moved = Path.replace, []
def replace_some(source, target):
    replace(source, target)
    moved.append(target)
    if len(moved) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
Path.replace = replace_some
with reserved(Path(sys.argv[1]), "clip", 1, "", Path(sys.argv[2])) as path:
    with writer.new_writer(path, 16, 16, settings.Settings(Fraction(16), BY_NAME["png sequence"], frames=3)) as made:
        for _ in range(3):
            made.write(torch.zeros(3, 16, 16, dtype=torch.uint8))
        made.flush()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
@pytest.mark.parametrize(("moved", "left"), [(2, []), (3, ["00001.png", "00002.png", "00003.png"])])
def test_a_png_sequence_that_was_moved_in_part_is_removed(tmp_path, moved, left):
    """As on Windows, file by file."""
    output, notes = tmp_path / "output", tmp_path / "notes"
    output.mkdir()
    command = [sys.executable, "-c", KILLED_WHILE_MOVED, str(output), str(notes), str(moved)]
    assert subprocess.run(command, check=False, cwd=tmp_path.parent).returncode == -signal.SIGKILL
    assert (
        sorted(path.name for path in (output / "clip_00001_").iterdir())
        == ["00001.png", "00002.png", "00003.png"][:moved]
    )
    remove_leftovers(notes)
    assert sorted(path.name for path in output.rglob("*.png")) == left
    assert len(list(output.iterdir())) == bool(left)


@pytest.mark.parametrize("dither", ["none", "ordered"])
@pytest.mark.parametrize("name", ["mp4 H.264", "png sequence"])
def test_ordered_dither_keeps_the_mean_of_what_lies_between_two_codes(tmp_path, name, dither):
    """A grey of 100.4: rounded it is 100 everywhere; dithered, its mean is kept."""
    chosen = BY_NAME[name]
    path = write(tmp_path, chosen, torch.full((1, 3, HEIGHT, WIDTH), 100.4 / 255), crf=0, dither=dither)
    if chosen.is_yuv:
        luma = np.frombuffer(read_luma(path), np.uint8)
        mean, exact, levels = luma.mean(), 16 + 219 * 100.4 / 255, 219 / 255
    else:
        luma = np.asarray(Image.open(next(path.iterdir())))
        mean, exact, levels = luma.mean(), 100.4, 1.0
    if dither == "ordered":
        assert len(np.unique(luma)) == 2
        assert abs(mean - exact) < 0.05
    else:
        assert len(np.unique(luma)) == 1
        assert abs(mean - exact) > 0.2 * levels


def read_luma(path):
    return ffmpeg("-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-vf", "extractplanes=y", "-")[0]


def test_a_preview_lies_beside_what_browsers_do_not_play(tmp_path):
    chosen = BY_NAME["mov ProRes 4444"]
    frames = torch.nn.functional.interpolate(clip(alpha=True)[:4], size=(700, 1300))
    settings = Settings(RATE, chosen, alpha=True, frames=4, sound=tone(1).lasting(4 / RATE))
    with new_writer(tmp_path / "clip.mov", 1300, 700, settings, tmp_path / "preview.mp4") as writer:
        for frame in frames:
            writer.write(frame)
        writer.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mov", "preview.mp4"]
    said = described(tmp_path / "preview.mp4")
    assert re.search(r"h264 \(High\).*yuv420p\(tv, bt709.*640x344", said), said
    assert "Audio: aac" in said


def test_without_a_preview_there_still_is_the_file(tmp_path, caplog):
    """Here its folder is missing."""
    settings = Settings(RATE, BY_NAME["mkv FFV1"], frames=2)
    with new_writer(tmp_path / "clip.mkv", WIDTH, HEIGHT, settings, tmp_path / "none" / "preview.mp4") as writer:
        for frame in to_planar_bytes(clip()[:2]):
            writer.write(frame)
        writer.flush()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]
    assert caplog.text.count("the file has no preview in the editor") == 1
    assert len(decoded(tmp_path / "clip.mkv", "rgb24", (WIDTH, HEIGHT))) == 2


def test_a_file_that_cannot_be_opened_leaves_no_preview(tmp_path):
    settings = Settings(RATE, BY_NAME["mkv FFV1"], frames=2)
    with (
        pytest.raises(FileNotFoundError),
        new_writer(tmp_path / "none" / "clip.mkv", WIDTH, HEIGHT, settings, tmp_path / "preview.mp4"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("preset", "frames"), [("veryfast", 10), ("medium", 22), ("slow", 50)])
def test_x264_looks_as_far_ahead_as_the_table_says(tmp_path, preset, frames):
    """With the default preset alone, which then takes a little less crf: with the others as far as x264 itself."""
    content = write(tmp_path, BY_NAME["mp4 H.264"], clip()[:2], preset=preset, crf=31).read_bytes()
    assert f"rc_lookahead={frames} ".encode() in content
    crf = float(re.search(rb"crf=([\d.]+) ", content)[1])
    assert 30.5 < crf < 31 if preset == "medium" else crf == 31


def test_preset_and_quality_reach_x265(tmp_path):
    content = write(tmp_path, BY_NAME["mp4 H.265"], clip()[:2], preset="veryfast", quality=31).read_bytes()
    assert b"rc-lookahead=15 " in content
    assert b"crf=31.0 " in content


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_clips_of_x265(tmp_path, count):
    """Their times of decoding were what stood in memory, mostly such that no file can have them."""
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        lasts, _ = seconds(write(folder, BY_NAME["mp4 H.265"], clip()[:count, :, :64, :64]))
        assert lasts == count / RATE


@each([one for one in WRITTEN if one.quality is not None])
def test_quality_reaches_every_encoder(tmp_path, chosen):
    """The best is larger than the worst."""
    sizes = [
        write(tmp_path, chosen, clip()[:3], quality=quality).stat().st_size
        for quality in (chosen.quality.least, chosen.quality.most)
    ]
    assert max(sizes) > 1.5 * min(sizes)
    assert (sizes[0] < sizes[1]) == (chosen.container == "webp")


def test_the_tags_that_a_webm_can_have_are_where_the_frontend_reads(tmp_path):
    """In the first 2 MiB; the last sample of the tags marks their end. Letters of other scripts take more bytes."""
    text = "中" * ((tags.WEBM_BYTES - 40) // 6)
    known = {"prompt": {"text": "x"}, "workflow": [text[:-9], "the end"]}
    assert 0 <= tags.WEBM_BYTES - tags.weight(known) < 100
    with new_writer(tmp_path / "clip.webm", 64, 64, Settings(RATE, BY_NAME["webm VP9"], tags=known)) as writer:
        writer.write(torch.zeros(3, 64, 64, dtype=torch.uint8))
        writer.flush()
    assert (tmp_path / "clip.webm").read_bytes().index(b'"the end"]') < 2 << 20


@pytest.mark.parametrize(
    ("typed", "exact"),
    [
        (16.0, Fraction(16)),
        (24.0, Fraction(24)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        (0.1, Fraction(1, 10)),
    ],
)
def test_frame_rates_of_ntsc_are_exact(typed, exact):
    assert exact_rate(typed) == exact


def known(*names):
    """What the trial of the encoders gives once it has ended."""
    tried = Future()
    tried.set_result(None if None in names else frozenset(names))
    return lambda hardware: tried


def test_a_format_that_does_not_work_is_not_listed_and_names_one_that_does(monkeypatch):
    """For an older name it returns what is alike."""
    assert "Use 'mp4 H.264'" in formats.error_of("mp4 h264")
    monkeypatch.setattr(formats, "_tried", known("mp4 H.264", "webp"))
    assert formats.listed() == ["mp4 H.264", "webp"]
    formats_error = formats.error_of("mp4 H.265 10-bit")
    assert "libx265 does not work on this machine" in formats_error
    assert formats_error.endswith("Use 'mp4 H.264', which does.")
    assert formats.error_of("mp4 H.264") == ""


def test_where_nothing_could_be_tried_software_is_taken_at_its_word(monkeypatch):
    monkeypatch.setattr(formats, "_tried", known(None))
    assert formats.listed() == [one.name for one in FORMATS if not one.hardware and formats._is_built(one)]
    assert not any(formats.works(one) for one in FORMATS if one.hardware)
    assert formats.works(BY_NAME["mkv FFV1"])


def test_another_process_tries_every_encoder():
    tried = formats._tried(False).result() | (formats._tried(True).result() or set())
    assert {one.name for one in FORMATS if not one.hardware} <= tried | {
        one.name for one in FORMATS if not formats._is_built(one)
    }
    assert set(formats.listed()) == tried


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for Python")
@pytest.mark.parametrize("end", ["kill -SEGV $$", "sleep 60"])
def test_an_encoder_that_crashes_or_hangs_hides_only_those_after_it(monkeypatch, tmp_path, end):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho mp4 H.264\necho webp\n{end.replace('sleep', 'exec sleep')}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(formats, "_PROBE_S", 1)
    assert formats._try_elsewhere(False) == {"mp4 H.264", "webp"}


def test_software_does_not_wait_for_hardware(monkeypatch):
    software = known("mp4 H.264")(False)
    monkeypatch.setattr(formats, "_tried", lambda hardware: Future() if hardware else software)
    assert formats.listed() == ["mp4 H.264"]
    assert formats.error_of("mp4 H.264") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux's scheduler")
@pytest.mark.parametrize("name", ["mp4 AV1", "webm AV1", "mp4 H.265"])
def test_no_thread_becomes_a_real_time_one(tmp_path, name):
    """SVT-AV1 asks for it as root, and then the machine has no time for others."""

    def policies():
        found = set()
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                found.add(os.sched_getscheduler(int(thread)))
        return found

    frames = clip()[:2]
    made = Settings(RATE, BY_NAME[name], alpha=False, frames=2)
    frames = frames if made.takes_floats else to_planar_bytes(frames)
    with new_writer(tmp_path / "video", WIDTH, HEIGHT, made) as writer:
        for frame in frames:
            writer.write(frame)
            assert policies() == {os.SCHED_OTHER}
        writer.flush()
    assert policies() == {os.SCHED_OTHER}


def test_an_encoder_that_does_not_open_does_not_work():
    refused = Format("own", ".mkv", "matroska", "libx264", "yuv420p", options={"profile": "none such"})
    assert formats._is_built(refused)
    assert not formats._encodes(refused)


def test_a_new_format_is_one_entry(tmp_path):
    """Also one whose encoder takes the colour differences in one plane, as hardware does. The file has them apart."""
    own = Format("own", ".mkv", "matroska", "libx264", "nv12", quality=formats.Quality("crf", 12, 0, 51))
    assert formats._encodes(own)
    assert own.block == (2, 2)
    path = write(tmp_path, own, clip()[:5])
    assert re.search(r"h264 .*yuv420p\(tv, bt709", described(path))
    assert psnr(rgb(own, path) @ LUMA, clip()[:5].movedim(1, -1).numpy() @ LUMA) > 36


def test_ten_bits_of_hardware_are_those_of_software():
    hardware, software = (
        to_picture(clip()[0], Settings(RATE, Format("own", "", "", "", pixels, bits=10)), WIDTH, HEIGHT)
        for pixels in ("p010le", "yuv420p10le")
    )
    assert hardware.format.name == "p010le"
    for one, other in zip(hardware.reformat(format="yuv420p10le").planes, software.planes, strict=True):
        rows, wanted = (np.frombuffer(plane, "<u2").reshape(plane.height, -1) for plane in (one, other))
        assert np.array_equal(rows[:, : one.width], wanted[:, : other.width])


DISK_FULL = """
import json, logging, resource, signal, sys
from fractions import Fraction
from pathlib import Path
import torch
from wan_flf2v.video.audio import Sound
from wan_flf2v.video.formats import BY_NAME, FORMATS
from wan_flf2v.video.encoder_thread import EncoderThread
from wan_flf2v.video.settings import Settings
from wan_flf2v.video.writer import new_writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
generator = torch.Generator().manual_seed(1)
frames = torch.randint(0, 256, (8, 3, 96, 128), dtype=torch.uint8, generator=generator)
noise = Sound(torch.rand(2, 24000, generator=generator), 48000)
logged = []
logging.getLogger("wan_flf2v.video").addFilter(logged.append)

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def largest(path):
    return max(one.stat().st_size for one in ([path] if path.is_file() else path.iterdir()))

def write(chosen, folder, size=-1, preview=None, **settings):
    folder.mkdir()
    path = folder / f"clip{chosen.suffix}"
    path.touch() if chosen.suffix else path.mkdir()
    limit(size)
    error = None
    try:
        settings["sound"] = noise if chosen.audio else None
        made = Settings(Fraction(16), chosen, crf=1, frames=len(frames), tags={"workflow": "x" * 9000}, **settings)
        writer = new_writer(path, 128, 96, made, preview)
        with writer, EncoderThread(writer, lambda: None) as encoder:
            if made.looks_twice:
                for frame in frames:
                    writer.look(frame)
            for frame in frames:
                encoder.put(frame)
    except OSError as raised:
        error = raised
    finally:
        limit(-1)
    return path, error

root, ends = Path(sys.argv[1]), {}
for chosen in (one for one in FORMATS if not one.hardware):
    name = chosen.name.replace(" ", "_").replace(":", "")
    swept = chosen.name in ("mp4 H.264", "mkv FFV1", "webp", "gif", "png sequence")
    sizes = [1, 20_000]
    if swept:
        whole, _ = write(chosen, root / name)
        sizes = [1, *(largest(whole) * part // 8 for part in (2, 4, 6)), largest(whole) - 1]
    for size in sizes:
        path, error = write(chosen, root / f"{name}_{size}", size)
        empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
        said = str(error).startswith(f"[Errno 27] {path} cannot be written: ") and "MiB left" in str(error)
        left = [other.name for other in path.parent.iterdir()] == [path.name]
        ends.setdefault(chosen.name, []).append([said, empty, left])

small = {"chosen": BY_NAME["mp4 H.265"], "quality": 51}
whole, _ = write(folder=root / "with_preview", preview=root / "preview.mp4", **small)
most, least = largest(root / "preview.mp4"), largest(whole)
for part in range(1, 9):
    size, preview = least + (most - least) * part // 8 - 1, root / f"preview_{part}.mp4"
    path, error = write(folder=root / f"with_preview_{part}", size=size, preview=preview, **small)
    end = [error is None, largest(path) == least, not preview.exists(), len(logged) == part]
    ends.setdefault("preview", []).append(end)
ends["preview beside it"] = [path.name for path in root.glob(".~*")]
print(json.dumps(ends))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_an_error_of_every_format_and_leaves_only_the_reserved_name(tmp_path):
    """A real refusal to write (error 27, EFBIG), in some formats at every eighth; in a preview it harms no file."""
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path.parent)
    ends = json.loads(done.stdout.splitlines()[-1])
    assert ends.pop("preview beside it") == []
    assert ends.pop("preview") == [[True] * 4] * 8
    assert ends == {one.name: [[True] * 3] * len(ends[one.name]) for one in WRITTEN if not one.hardware}


KILLED = """
import json, os, signal, sys
from fractions import Fraction
from pathlib import Path
import torch
from wan_flf2v.video.audio import Sound
from wan_flf2v.video.formats import BY_NAME
from wan_flf2v.video.names import remove_leftovers, reserved
from wan_flf2v.video.settings import Settings
from wan_flf2v.video.spool import FrameSpool
from wan_flf2v.video.writer import new_writer
output, notes, temp = (Path(sys.argv[1]) / name for name in ("output", "notes", "temp"))
output.mkdir()
temp.mkdir()
frames = [torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8) for _ in range(16)]
noise = Sound(torch.rand(2, 48000), 48000)

def begin(chosen, folder):
    # The pipe gets a byte for each frame that is put by or written: so a kill comes at a frame on a busy machine too.
    steps, told = os.pipe()
    child = os.fork()
    if child:
        os.close(told)
        return child, steps
    settings = Settings(Fraction(16), chosen, frames=16, tags={"workflow": "x"}, sound=noise if chosen.audio else None)
    with (
        reserved(folder, "clip", 1, chosen.suffix, notes) as path,
        FrameSpool(temp, 16, "gif", "no gif", limit_bytes=1) as spool,
        new_writer(path, 128, 96, settings) as writer,
    ):
        for frame in frames:
            spool.put(frame)
            writer.look(frame)
            os.write(told, b".")
        for frame in spool:
            writer.write(frame)
            os.write(told, b".")
        writer.flush()
    os._exit(0)

def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

ends = {}
for name in sys.argv[2:]:
    folder, cut = output / name, 0
    folder.mkdir()
    os.waitpid(begin(BY_NAME[name], folder)[0], 0)
    whole = files(folder)
    for moment in range(8):
        folder = output / f"{name} {moment}"
        folder.mkdir()
        child, steps = begin(BY_NAME[name], folder)
        for _ in range(4 * (moment + 1)):
            os.read(steps, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        cut += files(folder) != whole
        remove_leftovers(notes)
        ends.setdefault(name, []).append(files(folder) == whole or not any(folder.iterdir()))
    ends[name].append(cut > 1)
ends["left"] = [path.name for folder in (notes, temp) for path in folder.iterdir()]
print(json.dumps(ends))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_kill_at_any_moment_leaves_the_whole_file_or_nothing(tmp_path):
    """With the spool, and sound where there can be one. In MP4 and MOV, FFmpeg writes the file's front at its end."""
    names = ["gif", "webp", "png sequence", "mp4 H.264", "mov ProRes 422 HQ"]
    command = [sys.executable, "-c", KILLED, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {**{name: [True] * 9 for name in names}, "left": []}
