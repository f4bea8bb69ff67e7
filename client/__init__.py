"""HTTP clients of ComfyUI, the hosted API and the model hub. Needs neither torch nor ComfyUI."""
