"""Mechanical mutants of a source file: one operator, sign, constant, comparison or axis changed, found in its syntax tree.

Only code inside functions is touched, and of that neither what makes messages and tables nor default arguments. A mutant is
known by what it changes and not by its line number, so that a sample stays the same where the source does.
"""

import ast
import hashlib
from collections import Counter
from dataclasses import dataclass

OPERATORS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*")}
COMPARISONS = {
    ast.Lt: ("<", ">="),
    ast.LtE: ("<=", ">"),
    ast.Gt: (">", "<="),
    ast.GtE: (">=", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}
REDUCTIONS = {"sum", "mean", "std", "var", "prod", "logsumexp", "softmax", "cumsum", "cat", "stack", "amax", "max", "min",
              "flip", "roll", "flatten", "unsqueeze", "squeeze", "expand_dims", "argmin", "argsort", "sort",
              "log_mean_exp"}  # fmt: skip
SILENT = {"table", "figures", "__repr__", "_shown", "describe", "describe_layer", "layers", "k_hat_shares", "_progress_bar",
          "_bar", "coverage_table"}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of a file: ``start`` to ``end`` of its text become ``new``; ``name`` says which, whatever the line."""

    file: str
    start: int
    end: int
    new: str
    name: str

    def apply(self, source):
        """The mutated text."""
        return source[: self.start] + self.new + source[self.end :]


def sample(file, source, number, seed=0):
    """So many of a file's mutants, drawn by a hash of the seed and their names."""
    found = sorted(mutants(file, source), key=lambda m: hashlib.sha256(f"{seed} {m.name}".encode()).digest())
    return found[:number]


def mutants(file, source):
    """All mechanical mutants of a file."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    seen, out = Counter(), []
    for start, end, new, where in finder.found:
        first = source.rfind("\n", 0, start) + 1
        last = source.find("\n", end)
        line = source[first:start] + f"[{source[start:end].strip()} -> {new.strip()}]" + source[end:last]
        name = f"{file} {where}: {' '.join(line.split())}"
        seen[name] += 1
        out.append(Mutant(file, start, end, new, name if seen[name] == 1 else f"{name} ({seen[name]})"))
    return out


class _Finder(ast.NodeVisitor):
    def __init__(self, source):
        self.source, self.found, self.path = source, [], []
        self.lines = [0]
        for line in source.encode().split(b"\n"):
            self.lines.append(self.lines[-1] + len(line) + 1)
        self.bytes = source.encode()

    def _at(self, line, column):
        """Offset in characters of a place that the tree gives in bytes."""
        return len(self.bytes[: self.lines[line - 1] + column].decode())

    def _span(self, node):
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _add(self, start, end, new):
        if self.path and not SILENT & set(self.path):
            self.found.append((start, end, new, ".".join(self.path)))

    def _swap(self, left, right, pair):
        """Change the operator that stands between two nodes."""
        start, end = self._span(left)[1], self._span(right)[0]
        place = self.source[start:end].find(pair[0])
        if place >= 0:
            self._add(start + place, start + place + len(pair[0]), pair[1])

    def visit_FunctionDef(self, node):
        self.path.append(node.name)
        for part in node.body:
            self.visit(part)
        self.path.pop()

    def visit_ClassDef(self, node):
        path, self.path = self.path, []  # a class's own constants are settings
        for part in node.body:
            if isinstance(part, ast.FunctionDef):
                self.path = [*path, node.name]
                self.visit(part)
                self.path = []
        self.path = path

    def visit_Raise(self, node):
        pass

    def visit_JoinedStr(self, node):
        pass

    def visit_BinOp(self, node):
        if type(node.op) in OPERATORS and not self._is_text(node):
            self._swap(node.left, node.right, OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_Compare(self, node):
        if len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            self._swap(node.left, node.comparators[0], COMPARISONS[type(node.ops[0])])
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.USub):
            start, _ = self._span(node)
            if not isinstance(node.operand, ast.Constant):  # -1 is a constant, and mostly an axis
                self._add(start, start + 1, "")
                self.visit(node.operand)
            return
        self.generic_visit(node)

    def visit_Constant(self, node):
        if type(node.value) in (int, float):
            value = node.value
            new = value + 1 if isinstance(value, int) else 1.0 if value == 0 else 2 * value
            self._add(*self._span(node), repr(new))

    def visit_Call(self, node):
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        places = [*node.args, *(k.value for k in node.keywords if k.arg in ("dim", "axis"))]
        for place in places if name in REDUCTIONS else ():
            try:
                axis = ast.literal_eval(place)
            except (ValueError, TypeError):
                continue
            if type(axis) is int:
                self._add(*self._span(place), {0: "-1", 1: "0", -1: "0", -2: "-1"}.get(axis, "0"))
        for part in (node.func, *node.args, *(k.value for k in node.keywords)):
            if not (name in REDUCTIONS and part in places and isinstance(part, ast.Constant | ast.UnaryOp)):
                self.visit(part)

    def _is_text(self, node):
        return any(isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", None), str) for n in ast.walk(node))
