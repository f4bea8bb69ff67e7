"""What tests share: real processes, graphs, requests and files."""
