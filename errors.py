"""The one exception for what a user can put right, and how its text reaches a terminal."""


class InputError(ValueError):
    """Bad input: a missing or corrupt file, an impossible setting, a foreign artifact.

    The message is one line that says what is wrong and what to do about it. Entry points
    print it after ``error:`` and exit with ``code``; nothing else may catch it.
    """

    code = 2


class DivergedError(InputError):
    """Training diverged, and left nothing to export."""

    code = 1


def printable(text: object) -> str:
    """Return text as one line that a terminal only shows: control characters are escaped.

    Escaped are also line ends, marks that change the direction of writing, and bytes of a file's
    name that are not UTF-8.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in str(text)
    )
