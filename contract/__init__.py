"""The hosted API's parameters as data, and how they fill the bundled workflow. Needs neither torch nor ComfyUI."""
