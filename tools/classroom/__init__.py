"""A class: an nbgrader course from the lessons, and grades without a server."""
