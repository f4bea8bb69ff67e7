"""The sound of a video: as long as its frames, and encoded beside them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
import torch

# FFmpeg's layouts by their number of channels; an AUDIO names none. All encoders take these (libopus takes no 2.1): of
# three channels the third is the centre.
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
# Options for more than two channels: by itself FFmpeg's libopus swaps the centre of five and seven with others.
_SURROUND = {"libopus": {"mapping_family": "1"}}
_RESAMPLED = 48_000  # what a sound is resampled to where the encoder does not know its own rate
_CHUNK = 4096  # samples that are encoded at a time


class Sound(NamedTuple):
    """Samples, float -1...1, [channels, samples], and how many of them are a second."""

    samples: torch.Tensor
    rate: int

    def after(self, seconds: Fraction) -> Sound:
        """Return what comes after the first ``seconds``."""
        return self._replace(samples=self.samples[:, round(seconds * self.rate) :])

    def lasting(self, seconds: Fraction) -> Sound:
        """Return the first ``seconds``, one sample at least, with silence at the end if there is less."""
        count = max(1, round(seconds * self.rate))
        samples = self.samples[:, :count]
        return self._replace(samples=torch.nn.functional.pad(samples, (0, count - samples.shape[1])))


def sound_of(audio: dict[str, Any], clip: int) -> Sound:
    """Return the sound of a clip of a batch from an AUDIO; one sound serves all clips.

    Raises:
        ValueError: it has no samples, or more channels than there are names for.
    """
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or 0 in waveform.shape[:2] or waveform.shape[1] not in _LAYOUTS or rate < 1:
        raise ValueError(
            f"audio has the shape {list(waveform.shape)} at {rate} samples per second, but must be [clips, channels, "
            f"samples] with 1 to {max(_LAYOUTS)} channels. Connect another sound."
        )
    samples = waveform[clip if len(waveform) > 1 and clip < len(waveform) else 0]
    return Sound(samples.detach().float().cpu().nan_to_num(0.0).clamp(-1, 1), rate)


class SoundStream:
    """Encodes a sound into a container, piece by piece, as the frames come; where it ends, it begins again.

    Args:
        container: gets the stream; nothing may be muxed yet.
        encoder: FFmpeg's name of the encoder.
        sound: as long as the video, or as a part of it that is repeated.

    Raises:
        ValueError: the encoder does not take its channels or its rate.
    """

    def __init__(self, container: Any, encoder: str, sound: Sound) -> None:
        self._container = container
        self._samples = sound.samples.numpy()
        self._rate = sound.rate
        self._done = 0
        self._layout = _LAYOUTS[len(self._samples)]
        known = av.Codec(encoder, "w").audio_rates
        rate = self._rate if known is None or self._rate in known else _RESAMPLED
        options = _SURROUND.get(encoder, {}) if len(self._samples) > 2 else {}
        self._stream = container.add_stream(encoder, rate=rate, options=options, layout=self._layout)
        try:
            self._stream.codec_context.open()  # the container would open it with the video's, and blame that
        except av.error.FFmpegError as error:
            raise ValueError(
                f"audio has {len(self._samples)} channels at {self._rate} samples per second, but {encoder} refuses "
                f"{self._layout} at {rate}: {error.strerror}. Connect another sound, or choose another format."
            ) from error
        # Not by the encoder, whose own resampler keeps what it holds back.
        self._resampler = av.AudioResampler(self._stream.codec_context.format or "s16", self._layout, rate)

    def write_until(self, seconds: Fraction) -> None:
        """Encode the samples before this time."""
        end, length = round(seconds * self._rate), self._samples.shape[1]
        while self._done < end:
            first = self._done % length
            chunk = self._samples[:, first : first + min(_CHUNK, end - self._done)]
            packed = np.ascontiguousarray(chunk.T).reshape(1, -1)  # PyAV takes no 8 planes
            frame = av.AudioFrame.from_ndarray(packed, "flt", self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._done, Fraction(1, self._rate)
            self._encode(frame)
            self._done += chunk.shape[1]

    def flush(self) -> None:
        """Encode what the resampler and the encoder hold back."""
        self._encode(None)
        self._container.mux(self._stream.encode(None))

    def _encode(self, frame: av.AudioFrame | None) -> None:
        for resampled in self._resampled(frame):
            self._container.mux(self._stream.encode(resampled))

    def _resampled(self, frame: av.AudioFrame | None) -> Iterator[av.AudioFrame]:
        yield from self._resampler.resample(frame)
