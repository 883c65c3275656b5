"""What only a checkout of the course can do: make notebooks, class kits, slides and the handout."""
