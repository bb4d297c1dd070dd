"""Scenes drawn in code, written to a folder; `dalle_base.data.shapes` draws and checks them."""
