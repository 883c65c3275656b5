"""Where the pictures of `replearn.data` come from: drawn, downloaded or read from files."""
