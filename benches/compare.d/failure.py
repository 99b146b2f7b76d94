"""What ends a comparison: one line that says what is wrong and what to do."""


class Failure(Exception):
    """The comparison cannot go on, or must not be believed."""
