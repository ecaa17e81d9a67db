"""How fast and how exact: python -m benchmark."""
