"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Bad input: a missing or corrupt file, an impossible setting, a foreign artifact.

    The message is one line that says what is wrong and what to do about it. Entry points
    print it after ``error:`` and exit with code 2; nothing else may catch it.
    """
