"""Judges a finished video: whether it begins and ends on its images, and what is wrong in between. numpy only.

The metrics are short and written out here instead of taken from a library: ComfyUI's own requirements then suffice for
the node, and the tests compare them with scikit-image, colour-science and the published test data.
"""
