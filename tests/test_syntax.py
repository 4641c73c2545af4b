"""Parsing while other threads parse: the interpreter's own mistake is not the text's."""

import ast

import pytest

from evolve import syntax


def test_what_another_thread_spoiled_is_parsed_again(monkeypatch):
    parse, spoiled = ast.parse, [3]

    def unlucky(text):
        if spoiled[0]:
            spoiled[0] -= 1
            raise SystemError("AST constructor recursion depth mismatch (before=42, after=36)")
        return parse(text)

    monkeypatch.setattr(syntax.ast, "parse", unlucky)
    assert ast.dump(syntax.parse("x = 1")) == ast.dump(parse("x = 1"))
    spoiled[0] = 100
    with pytest.raises(SystemError):
        syntax.parse("x = 1")


def test_a_mistake_of_the_texts_is_told_at_once():
    with pytest.raises(SyntaxError):
        syntax.parse("x = (")
