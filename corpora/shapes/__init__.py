"""Scenes drawn in code, written to a folder; `dalle_lab.data.shapes` draws and checks them."""
