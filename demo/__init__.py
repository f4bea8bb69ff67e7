"""The demo: tiny models of the real architectures, two photographs, and a video from them by a real ComfyUI."""
