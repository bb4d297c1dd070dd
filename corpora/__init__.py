"""Corpora that anyone can make: scenes drawn by code, and real emoji art from public packages."""
