"""The demo: tiny models of the real architectures, two photographs, and the whole path on a real ComfyUI."""
