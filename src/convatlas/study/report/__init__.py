"""report: a net on a GPU as one page of HTML that needs nothing else. Its numbers are those of `Map.as_dict()`."""
