"""The command line ``wan-flf2v``. Speaks HTTP; imports neither torch nor ComfyUI."""
