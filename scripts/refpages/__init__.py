"""The pages of docs/plugins/reference, made from the code; `reference.py` writes them."""
