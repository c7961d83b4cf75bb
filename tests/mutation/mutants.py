"""Small wrong changes to a module, one at a time, as syntax trees."""

from __future__ import annotations

import ast
from dataclasses import dataclass

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One wrong module; `name` says what is wrong without line numbers, so that it outlives edits elsewhere."""

    name: str
    line: int
    tree: ast.Module


class _Mutator(ast.NodeTransformer):
    """Walks a module and makes the change of number `wanted`; counts and names all on the way."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.count = 0
        self.made: tuple[str, int] | None = None
        self._where: list[str] = []

    def _hit(self, node: ast.AST, what: str) -> bool:
        self.count += 1
        if self.count - 1 != self.wanted:
            return False
        self.made = (f"{'.'.join(self._where) or 'module'}: {what}", getattr(node, "lineno", 0))
        return True

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        self._where.append(node.name)
        if ast.get_docstring(node, clean=False) is not None:
            node.body, docstring = node.body[1:] or [ast.Pass()], node.body[:1]
        else:
            docstring = []
        node.decorator_list = [one for one in node.decorator_list if not self._hit(one, f"without @{ast.unparse(one)}")]
        # annotations and bases are left alone
        if not isinstance(node, ast.ClassDef):
            node.args.defaults = [self.visit(one) for one in node.args.defaults]
            node.args.kw_defaults = [one and self.visit(one) for one in node.args.kw_defaults]
        node.body = docstring + [self.visit(one) for one in node.body]
        self._where.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _inside  # type: ignore[assignment]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.value = node.value and self.visit(node.value)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return node

    visit_Import = visit_ImportFrom  # type: ignore[assignment]

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        text = ast.unparse(node)
        for place, operator in enumerate(node.ops):
            if type(operator) in SWAPS and self._hit(node, f"other comparison in {text}"):
                node.ops[place] = SWAPS[type(operator)]()  # type: ignore[assignment,call-overload]
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        if self._hit(node, f"and/or in {ast.unparse(node)}"):
            node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if type(node.op) in SWAPS and self._hit(node, f"other operator in {ast.unparse(node)}"):
            node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not | ast.Invert) and self._hit(node, f"without the sign of {ast.unparse(node)}"):
            return self.visit(node.operand)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if not isinstance(node.test, ast.Compare) and self._hit(node, f"if not {ast.unparse(node.test)}"):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool):
            return ast.Constant(not value) if self._hit(node, f"{not value} for {value}") else node
        if isinstance(value, int | float):
            return ast.Constant(value + 1) if self._hit(node, f"{value} + 1") else node
        if isinstance(value, str) and value:
            return ast.Constant(f"XX{value}") if self._hit(node, f"other text than {value!r}") else node
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("XX") if self._hit(node, f"other text than {ast.unparse(node)}") else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        trivial = node.value is None or isinstance(node.value, ast.Constant)
        if not trivial and self._hit(node, f"nothing returned for {ast.unparse(node)[:60]}"):
            return ast.Return(ast.Constant(None))
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):  # a docstring
            return node
        return ast.Pass() if self._hit(node, f"left out {ast.unparse(node)[:60]}") else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        text = ast.unparse(node)[:60]
        node.keywords = [
            one for one in node.keywords if one.arg is None or not self._hit(node, f"without {one.arg}= in {text}")
        ]
        return self.generic_visit(node)


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a module; those of one name are told apart by a number."""
    counter = _Mutator(-1)
    counter.visit(ast.parse(source))
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for number in range(counter.count):
        mutator = _Mutator(number)
        tree = ast.fix_missing_locations(mutator.visit(ast.parse(source)))
        if mutator.made is None:
            raise RuntimeError("mutants are counted in another order than they are made")
        name, line = mutator.made
        seen[name] = seen.get(name, 0) + 1
        found.append(Mutant(name if seen[name] == 1 else f"{name} ({seen[name]})", line, tree))
    return found
