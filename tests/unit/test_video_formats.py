"""Every format that this machine writes, from one clip, read back by programs that are not this project's."""

import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.media import decoded, described, ffmpeg, pictures, samples
from wan_flf2v.video import formats
from wan_flf2v.video.audio import Sound
from wan_flf2v.video.formats import BY_NAME, FORMATS
from wan_flf2v.video.names import reserved
from wan_flf2v.video.writer import Settings, exact_rate, new_writer, to_planar_bytes

WIDTH, HEIGHT, FRAMES = 128, 96, 33
RATE = Fraction(24000, 1001)
TAGS = {
    "prompt": {"57": {"inputs": {"noise_seed": 5}}},
    "workflow": {"note": "größer"},
    "wan_flf2v": {"frames": FRAMES},
}
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1), "skin": (0.91, 0.76, 0.65)}
WRITTEN = [one for one in FORMATS if one.name in formats.listed()]
VIDEOS = [one for one in WRITTEN if one.container not in ("gif", "webp", "")]
LUMA = np.array([0.2126, 0.7152, 0.0722])  # of BT.709
OPAQUE = 0.75  # of the width is; the rest fades

# What ffmpeg says of a file: the codec with its tag, and the pixels with their range and colours.
SAID = {
    "mp4 H.264": r"h264 \(High\) \(avc1 .*yuv420p\(tv, bt709,",
    "mp4 H.264 4:4:4": r"h264 \(High 4:4:4 Predictive\) \(avc1 .*yuv444p\(tv, bt709,",
    "mp4 H.264 10-bit": r"h264 \(High 10\) \(avc1 .*yuv420p10le\(tv, bt709,",
    "mp4 H.265": r"hevc \(Main\) \(hvc1 .*yuv420p\(tv, bt709\W",
    "mp4 H.265 10-bit": r"hevc \(Main 10\) \(hvc1 .*yuv420p10le\(tv, bt709\W",
    "mp4 AV1": r"av1 .*\(Main\) \(av01 .*yuv420p10le\(tv, bt709\W",
    "webm AV1": r"av1 .*\(Main\), yuv420p10le\(tv, bt709\W",
    "webm VP9": r"vp9 \(Profile 0\), yuv420p\(tv, bt709\W",
    "mov ProRes 422 HQ": r"prores \(HQ\) \(apch .*yuv422p10le\((tv, )?bt709,",
    "mov ProRes 4444": r"prores \(4444\) \(ap4h .*yuv444p12le\((tv, )?bt709,",
    "mkv FFV1": r"ffv1.*bgr0",
    "mkv FFV1 16-bit": r"ffv1.*gbrp16le",
}


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


def tone(seconds, rate=44100):
    wave = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(round(seconds * rate)) / rate)
    return Sound(torch.stack([wave, -wave]), rate)


def write(folder, chosen, frames, **settings):
    """Write the frames and return the path."""
    path = folder / f"clip{chosen.suffix}"
    made = Settings(RATE, chosen, alpha=frames.shape[1] == 4, frames=len(frames), tags=TAGS, **settings)
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


@each(WRITTEN)
def test_primaries_and_skin_are_within_two_codes(files, chosen):
    written = rgb(chosen, files(chosen)).mean(0) * 255
    for number, colour in enumerate(COLOURS.values()):
        patch = written[8:16, 24 * number + 8 : 24 * number + 16].reshape(-1, 3).mean(0)
        allowed = 10 if chosen.container == "gif" else 2.0
        assert np.abs(patch - np.array(colour) * 255).max() <= allowed, (number, patch)


@each(VIDEOS)
def test_codec_pixels_and_tags_are_as_the_table_says(files, chosen):
    said = described(files(chosen))
    assert re.search(r"Video: " + SAID[chosen.name], said), said
    assert f"{WIDTH}x{HEIGHT}" in said
    assert re.search(r"23\.98 (fps|tbr)", said), said


@each([one for one in VIDEOS if one.bits == 8 and one.encoder == "ffv1"])
def test_lossless_bytes_come_back_bit_for_bit(files, chosen):
    assert np.array_equal(decoded(files(chosen), "rgb24", (WIDTH, HEIGHT)), to_planar_bytes(clip()).movedim(1, -1))


@each([one for one in WRITTEN if one.bits == 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_sixteen_bits_come_back_bit_for_bit(tmp_path, chosen, alpha):
    source = clip(alpha)[:3]
    path = write(tmp_path, chosen, source)
    exact = (source.double() * 65535).round().movedim(1, -1).numpy()
    pixels = "rgba64le" if alpha else "rgb48le"
    found = [path] if path.is_file() else sorted(path.iterdir())
    written = np.concatenate([decoded(one, pixels, (WIDTH, HEIGHT)) for one in found])
    assert np.abs(written - exact).max() <= 1
    assert (written != exact).mean() < 1e-3  # in float32 a value may be just across a half


@each([one for one in WRITTEN if one.alpha and one.bits < 16])
def test_transparency_comes_back(tmp_path, chosen):
    source = clip(alpha=True)[:5]
    path = write(tmp_path, chosen, source)
    if chosen.container == "webp":
        alpha = pictures(path, "RGBA")[0][..., 3] / 255
    elif path.is_dir():
        alpha = np.stack([np.asarray(Image.open(one))[..., 3] / 255 for one in sorted(path.iterdir())])
    else:
        decoder = "libvpx-vp9" if chosen.encoder == "libvpx-vp9" else None
        assert re.search(r"alpha_mode +: 1", described(path), re.I) or decoder is None  # what browsers look at
        alpha = decoded(path, "rgba", (WIDTH, HEIGHT), decoder)[..., 3] / 255
    assert np.abs(alpha - source[:, 3].numpy()).max() <= (0.06 if chosen.encoder == "libvpx-vp9" else 0.01)


@each(VIDEOS)
def test_sound_is_as_long_as_the_frames_and_in_step(files, chosen):
    heard, rate = samples(files(chosen))
    seconds = float(FRAMES / RATE)
    allowed = 1 if chosen.audio in ("pcm_s16le", "flac") else 1024  # AAC and Opus end with their last block
    assert abs(len(heard) - seconds * rate) <= allowed
    first = heard[: rate // 2, 0]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(first)) / rate)
    lags = range(-rate // 880, rate // 880)
    middle = slice(rate // 4, rate // 3)
    best = max(lags, key=lambda lag: float(np.dot(np.roll(first, lag)[middle], expected[middle])))
    assert abs(best) <= 0.0005 * rate


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
    exif = Image.open(files(BY_NAME["webp"])).getexif()
    assert exif[0x0110] == "prompt:" + texts["prompt"]
    assert sorted(exif.values()) == sorted(f"{key}:{text}" for key, text in texts.items())
    said = described(files(BY_NAME["gif"]))
    assert json.dumps(TAGS) in said, said


def test_a_gif_and_a_webp_play_as_long_and_as_often_as_said(files):
    for name, tick, repeats in (("gif", 0.01, 2), ("webp", 0.001, 3)):
        path = files(BY_NAME[name])
        _, seconds = pictures(path, "RGB")
        assert abs(sum(seconds) - float(FRAMES / RATE)) <= tick * 1.01, name
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


@pytest.mark.parametrize("name", ["gif", "webp", "png sequence", "mkv FFV1", "mp4 H.264 4:4:4"])
def test_odd_sizes(tmp_path, name):
    chosen = BY_NAME[name]
    path = write(tmp_path, chosen, clip()[:3, :, :95, :127])
    if chosen.container in ("gif", "webp"):
        assert pictures(path, "RGB")[0].shape == (3, 95, 127, 3)
    else:
        assert "127x95" in described(next(path.iterdir()) if path.is_dir() else path)


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
    monkeypatch.setattr("wan_flf2v.video.writer._MOVES_FOLDERS", moves_folders)
    with reserved(tmp_path, "clip", 1, "") as path:
        chosen = BY_NAME["png sequence"]
        with new_writer(path, WIDTH, HEIGHT, Settings(RATE, chosen, frames=3)) as made:
            for frame in to_planar_bytes(clip()[:3].movedim(1, -1)):
                made.write(frame)
    assert free == []
    assert sorted(file.name for file in path.iterdir()) == ["00001.png", "00002.png", "00003.png"]
    assert list(tmp_path.iterdir()) == [path]


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


def test_a_format_that_does_not_work_names_one_that_does(monkeypatch):
    """On this machine the hardware's; an older name is answered with what is alike."""
    assert "Use 'mp4 H.264'" in formats.error_of("mp4 h264")
    monkeypatch.setattr(formats, "_encodes", lambda one: "265" not in one.name)
    formats_error = formats.error_of("mp4 H.265 10-bit")
    assert "libx265 does not work on this machine" in formats_error
    assert formats_error.endswith("Use 'mp4 H.264', which does.")
    assert formats.error_of("mp4 H.264") == ""


def test_hardware_is_listed_only_if_it_encoded_a_frame():
    tried = formats._tried_hardware().result()
    listed = set(formats.listed())
    assert {one.name for one in FORMATS if one.hardware and one.name in listed} == tried


DISK_FULL = """
import json, resource, signal, sys
from fractions import Fraction
from pathlib import Path
import torch
from wan_flf2v.video.formats import FORMATS
from wan_flf2v.video.writer import EncoderThread, Settings, new_writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ends = {}
for chosen in FORMATS:
    if chosen.hardware:
        continue
    folder = Path(sys.argv[1]) / chosen.name.replace(" ", "_").replace(":", "")
    folder.mkdir()
    path = folder / f"clip{chosen.suffix}"
    path.mkdir() if not chosen.suffix else path.touch()
    settings = Settings(Fraction(16), chosen, crf=1, quality=chosen.quality and chosen.quality.default, frames=40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    error = None
    try:
        writer = new_writer(path, 128, 96, settings)
        with writer, EncoderThread(writer, lambda: None) as encoder:
            frames = [torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8) for _ in range(40)]
            if settings.looks_twice:
                for frame in frames:
                    writer.look(frame)
            for frame in frames:
                encoder.put(frame)
    except OSError as raised:
        error = raised.errno
    empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
    ends[chosen.name] = [error, empty, [other.name for other in folder.iterdir()] == [path.name]]
print(json.dumps(ends))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [1, 20_000])
def test_a_full_disk_is_an_error_of_every_format_and_leaves_only_the_reserved_name(tmp_path, limit):
    """A real refusal to write, at the first byte and in the middle (error 27, EFBIG)."""
    command = [sys.executable, "-c", DISK_FULL, str(tmp_path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path.parent)
    ends = json.loads(done.stdout.splitlines()[-1])
    assert ends == {one.name: [27, True, True] for one in WRITTEN if not one.hardware}
