"""Files that others may have written: size, depth and form are checked before they are used."""
