"""A report as text: the facts, then what is wrong."""

from __future__ import annotations

from .report import End, Report

_LABEL = 12


def summary(report: Report) -> str:
    """Return the verdict in one line."""
    if not report.findings:
        return f"pass: {_matching(report)}nothing wrong in between" if report.start or report.end else "pass"
    count = len(report.findings)
    return (
        f"{count} finding{'' if count == 1 else 's'}: {', '.join(dict.fromkeys(one.kind for one in report.findings))}"
    )


def to_text(report: Report) -> str:
    """Return the whole report, one fact a line."""
    video, luma = report.video, report.luma
    size = f"{video.width}x{video.height}; {video.frames} frames at {video.frame_rate:g} fps, {video.seconds:.2f} s"
    brightness = f"{luma[0]:.0%} at first, {luma[-1]:.0%} at last, {min(luma):.0%} to {max(luma):.0%} in all"
    lines = [
        ("Video", size),
        ("First", _end(report.start, "start image")),
        ("Last", _end(report.end, "end image")),
        ("Brightness", brightness),
    ]
    if video.frames > 1:
        moving = sorted(report.motion[1:])
        typical = moving[len(moving) // 2]
        lines.append(("Motion", f"{typical:.2%} of white a frame, at most {moving[-1]:.2%}"))
        lines.append(("Loop", f"from the last frame back to the first: {report.loop_seam:.2%} of white"))
    for seam in report.seams:
        name = f"frame {seam.frame}" if seam.frame else "of the loop"
        lines.append(("Seam", f"{name}: brightness {seam.brightness:.2f}, motion {seam.motion:.2f} of the usual step"))
    if report.cuts:
        lines.append(("Cuts", ", ".join(f"frame {cut} ({report.times[cut]:.2f} s)" for cut in report.cuts)))
    lines += [("Finding", one.text) for one in report.findings]
    lines.append(("Verdict", summary(report)))
    return "\n".join(f"{label:{_LABEL}}{text}" for label, text in lines)


def _matching(report: Report) -> str:
    """Return which ends match their images; at least one was given."""
    if report.start and report.end:
        return "the ends match their images, "
    return f"the {'first' if report.start else 'last'} frame matches its image, "


def _end(end: End | None, image: str) -> str:
    if end is None:
        return f"not compared: there is no {image}"
    colour = "the colours cannot be compared"
    if end.colour is not None:
        names = zip(("red", "green", "blue"), end.colour.change, strict=True)
        colour = ", ".join(f"{name} {change:+.1%}" for name, change in names)
    return f"{image}: PSNR {end.psnr:.1f} dB, SSIM {end.ssim:.3f}, CIEDE2000 {end.delta_e:.1f}; {colour}"
