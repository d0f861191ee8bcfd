"""Modules with as few spaces and lines as they need mean what they did."""

import ast
import inspect

from artifact.submission.tight import tight
from files import PROJECT


def test_spaces_that_part_nothing_are_gone():
    text = (
        "def f(a, *b, c = 1):\n\tx = 1 if a else - 2\n\tif not a and b [1 :] in (3,):\n"
        "\t\treturn f'{a!r:>{c}} {{ }}  b' \"c  d\" , 1 .real, lambda: 0\n"
        "\ttext = '''  two\n   lines'''\n\treturn x ** - a, text, 0 or x, [1 for z in b if z]\n"
    )
    small = tight(text)
    assert ast.dump(ast.parse(small)) == ast.dump(ast.parse(text))
    assert "x=1 if a else-2" in small and "'  two\n   lines'" in small
    assert len(small) < len(text) - 20


LINES = """
class Box:

    size = 1  # in bytes

    kind = ''

def f(a):
    if a:
        b = 1
        c = a[
            1:]
    else:
        for d in a:
            if d:
                pass
    return a

@d
def g(x):
    return '''a
  :'''
"""


def test_simple_statements_share_a_line_with_each_other_and_the_head_of_their_block() -> None:
    small = tight(LINES)
    assert small == (
        "class Box:size=1;kind=''\ndef f(a):\n\tif a:b=1;c=a[\n            1:]\n"
        "\telse:\n\t\tfor d in a:\n\t\t\tif d:pass\n\treturn a\n"
        "@d\ndef g(x):return'''a\n  :'''\n"
    )
    assert ast.dump(ast.parse(small)) == ast.dump(ast.parse(LINES))


def test_tight_modules_mean_the_same_and_their_functions_are_found() -> None:
    for path in sorted((PROJECT / "kernels").rglob("*.py")):
        text = path.read_text()
        small = tight(text)
        tree = ast.parse(small)
        assert ast.dump(tree) == ast.dump(ast.parse(text))
        lines = small.splitlines(keepends=True)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                first = min(each.lineno for each in (node, *node.decorator_list))
                found = ast.parse("".join(inspect.getblock(lines[first - 1 :])))
                assert ast.dump(found.body[0]) == ast.dump(node)
