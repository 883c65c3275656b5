"""Slides of the lessons, from the stored notebooks: HTML that needs no network."""
