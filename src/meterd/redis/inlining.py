"""Shared functions put where scripts call them: Redis makes each function of a script anew for each call, which costs some 0.1 µs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from meterd.core import values


@values.value
class Inlined:
    """A function that is put in place: its statements, and what it returns, "" for nothing."""

    name: str
    parameters: str
    statements: str
    returned: str

    @property
    def is_expression(self) -> bool:
        return not self.statements


# The comment above such a function. Its one `return`, if any, is its last line.
_MARKED = re.compile(
    r"^-- in place\nlocal function (\w+)\(([\w, ]*)\)\n(.*?)(?:^  return ([^\n]*)\n)?^end$", re.MULTILINE | re.DOTALL
)
_LOCALS = re.compile(r"\b(?:local|for) ([\w, ]+?)(?: =| in|$)", re.MULTILINE)
# A call that is a statement, or begins all that is assigned.
_STATEMENT = re.compile(r"^( *)(?:(local )?(\w+(?:, \w+)*) = )?(\w+)\(", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")


def without_comments(code: str) -> str:
    """Comments are for readers; Redis need not keep them."""
    return "\n".join(line for line in code.splitlines() if not line.lstrip().startswith("--") and line.strip())


def found_in(paragraphs: Sequence[str]) -> dict[str, Inlined]:
    """The functions of a prelude that are put in place, each with those before it in its own place. ValueError for one that cannot be."""
    found: dict[str, Inlined] = {}
    for paragraph in paragraphs:
        if match := _MARKED.search(paragraph):
            name, parameters, statements, returned = match.groups()
            if "return" in _WORD.findall(without_comments(statements)):
                raise ValueError(f"{name} is to be put in place, and returns before its last line")
            found[name] = Inlined(
                name=name,
                parameters=parameters,
                statements=put_in_place(statements, found),
                returned=_with_expressions(returned or "", found),
            )
    return found


def put_in_place(code: str, functions: Mapping[str, Inlined]) -> str:
    """The code with calls of the functions replaced by what they do.

    A call must be a statement, or all that is assigned, unless its function is one expression; others stay calls. ValueError where a name
    inside the function would hide one that is assigned to.
    """
    done, at = list[str](), 0
    for match in _STATEMENT.finditer(code):
        indent, is_new, targets, name = match.groups()
        function = functions.get(name)
        if function is None or match.start() < at or function.is_expression:
            continue
        arguments, end = _arguments(code, match.end())
        if code[end : end + 1] in ("\n", ""):
            done.append(_with_expressions(code[at : match.start()], functions))
            given = [_with_expressions(argument, functions) for argument in arguments]
            lines = _block(function, given, targets or "")
            if is_new:
                lines.insert(0, f"local {targets}")
            done.append("\n".join(indent + line for line in lines))
            at = end
    done.append(_with_expressions(code[at:], functions))
    return "".join(done)


def _block(function: Inlined, arguments: Sequence[str], targets: str) -> list[str]:
    inside = ", ".join((function.parameters, *_LOCALS.findall(function.statements)))
    if hidden := set(_WORD.findall(inside)) & set(_WORD.findall(targets)) - {"_"}:
        raise ValueError(f"{function.name} hides {', '.join(sorted(hidden))}, which its caller assigns to")
    lines = [f"  local {function.parameters} = {', '.join(arguments)}"] if function.parameters else []
    lines += function.statements.rstrip("\n").split("\n")
    if targets:
        lines.append(f"  {targets} = {function.returned}")
    return ["do", *lines, "end"]


def _with_expressions(code: str, functions: Mapping[str, Inlined]) -> str:
    """The code with calls of functions that are one expression replaced by it."""
    for function in functions.values():
        if function.is_expression:
            while match := re.search(rf"(?<!function )\b{function.name}\(", code):
                arguments, end = _arguments(code, match.end())
                code = f"{code[: match.start()]}({_filled_in(function, arguments)}){code[end:]}"
    return code


def _filled_in(function: Inlined, arguments: Sequence[str]) -> str:
    by_name = dict(zip(function.parameters.split(", "), arguments, strict=True))

    def operand(word: re.Match[str]) -> str:
        text = by_name.get(word[0], word[0])
        return text if _WORD.fullmatch(text) else f"({text})"

    return _WORD.sub(operand, function.returned)


def _arguments(code: str, at: int) -> tuple[list[str], int]:
    """The arguments of the call whose first one begins at `at`, and where the call ends."""
    depth, begin, found = 0, at, list[str]()
    while depth >= 0:
        depth += (code[at] in "([{") - (code[at] in ")]}")
        if depth < 0 or (depth == 0 and code[at] == ","):
            found.append(code[begin:at].strip())
            begin = at + 1
        at += 1
    return [argument for argument in found if argument], at
