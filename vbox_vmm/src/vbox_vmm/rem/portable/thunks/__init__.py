"""Functions that libunicorn calls: written in the subset of Python that `language` describes."""
