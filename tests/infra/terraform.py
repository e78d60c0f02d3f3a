"""Checks Terraform files without Terraform: every reference, and every argument against the provider's schema.

`google_provider.json` is the part of the schema for the types that `infra/terraform` uses. After a change that uses
another type, make it again from the whole schema:

    python -m tests.infra.terraform ../shared/terraform/google-provider.json

In the table, `name!` is a required argument, an object is a block, and a list with an object is a block that may be
repeated. Other values are types.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
from hcl2 import SerializationOptions

FOLDER = Path("infra/terraform")
TABLE = Path(__file__).with_name("google_provider.json")

_BLOCK = "__is_block__"
_META_ARGUMENTS = {"count", "depends_on", "for_each", "lifecycle", "provider"}
_FUNCTIONS = {"alltrue", "can", "coalesce", "floor", "join", "regex", "templatefile", "tostring", "toset"}
_KEYWORDS = {"for", "in", "if", "true", "false", "null"}
_NAME = r"[A-Za-z_][\w-]*"
_PATH = re.compile(rf"(?<![\w.\]\"-]){_NAME}(?:\.{_NAME}|\[[^\[\]]*\])*")
_LOOP = re.compile(rf"\bfor\s+(?:({_NAME})\s*,\s*)?({_NAME})\s+in\s+([^:]+?)\s*:")
_LITERALS = {"string": str, "number": (int, float), "boolean": bool}


@dataclass
class Block:
    """A block at the top of a file, such as `resource "google_storage_bucket" "data"`."""

    kind: str
    labels: tuple[str, ...]
    body: dict[str, Any]

    @property
    def address(self) -> str:
        """Its name in references and in faults."""
        return ".".join({"variable": ("var",), "resource": ()}.get(self.kind, (self.kind,)) + self.labels)


@dataclass
class Checker:
    """Finds the faults of the files of one folder, given by name. `table` is the content of `google_provider.json`."""

    files: Mapping[str, str]
    table: Mapping[str, Any]
    faults: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """Return one sentence per fault; empty if there is none."""
        blocks = [block for name, text in self.files.items() if name.endswith(".tf") for block in blocks_of(text)]
        self.declared = {block.address: block for block in blocks}
        if len(self.declared) < len(blocks):
            self.faults.append("Two blocks have the same name.")
        used: set[str] = set()
        for block in blocks:
            if block.kind in ("resource", "data"):
                self._check_resource(block)
            elif block.kind in ("variable", "output"):
                self._check_description(block)
            elif block.kind not in ("local", "provider", "terraform"):
                self.faults.append(f"{block.address}: blocks of the kind {block.kind} are not checked.")
            used |= {address for address in self._check_references(block) if address != block.address}
        for address, block in self.declared.items():
            if block.kind in ("variable", "local", "data") and address not in used:
                self.faults.append(f"{address} is not used.")
        return self.faults

    def _check_description(self, block: Block) -> None:
        wanted = {"variable": ["description", "type"], "output": ["description", "value"]}[block.kind]
        if block.kind == "variable" and block.body.get("type") != "bool":
            wanted.append("validation")
        self.faults += [f"{block.address} has no {name}." for name in wanted if name not in block.body]

    def _check_resource(self, block: Block) -> None:
        schema = self.table[block.kind].get(block.labels[0])
        if schema is None:
            self.faults.append(f"{block.address}: the table has no type {block.labels[0]}.")
            return
        arguments = {name: value for name, value in block.body.items() if name not in _META_ARGUMENTS}
        self._check_arguments(block.address, arguments, schema["arguments"])
        for lifecycle in block.body.get("lifecycle", []):
            for path in lifecycle.get("ignore_changes", []):
                self._check_read(block.address, _parts(_expression(path)), schema)

    def _check_arguments(self, where: str, given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
        wanted = {name.rstrip("!"): value for name, value in schema.items()}
        for name, value in given.items():
            if name.startswith("__"):
                continue
            path, kind = f"{where}.{name}", wanted.get(name)
            is_block = isinstance(value, list) and any(isinstance(each, dict) and _BLOCK in each for each in value)
            if kind is None:
                self.faults.append(f"{path} is not an argument of the provider.")
            elif is_block != isinstance(kind, dict | list):
                self.faults.append(f"{path} must {'not ' if is_block else ''}be a block.")
            elif isinstance(kind, dict | list):
                if isinstance(kind, dict) and len(value) > 1:
                    self.faults.append(f"{path} must not be repeated.")
                for each in value:
                    self._check_arguments(path, each, kind if isinstance(kind, dict) else kind[0])
            elif not _is_of_type(value, kind):
                self.faults.append(f"{path} must be of the type {kind}.")
        missing = [name[:-1] for name in schema if name.endswith("!") and name[:-1] not in given]
        self.faults += [f"{where} has no {name}, which is required." for name in missing]

    def _check_references(self, block: Block) -> Iterator[str]:
        """Check everything that a block refers to; yield the addresses of the blocks."""
        for text in _expressions(block):
            code = _code(text)
            loops = {name: source for key, name, source in _LOOP.findall(code)}
            keys = {key for key, _, _ in _LOOP.findall(code)}
            for path, following in _paths(code):
                root, *parts = _parts(path)
                if following.startswith("("):
                    if root not in _FUNCTIONS:
                        self.faults.append(f"{block.address}: there is no function {root}.")
                elif root in _KEYWORDS or root in keys or re.match(r"=(?![=>])", following):
                    continue  # the last: the name of an attribute of an object
                elif root in loops:
                    if source := self._resource(loops[root]):
                        self._check_read(block.address, parts, self.table[source.kind][source.labels[0]])
                elif root == "each":
                    if "for_each" not in block.body or parts not in (["key"], ["value"]):
                        self.faults.append(f"{block.address}: {path} has no value here.")
                elif path != "path.module":
                    yield from self._check_reference(block, path)
            self._check_template(block, text)

    def _resource(self, path: str) -> Block | None:
        found = self.declared.get(path)
        return found if found and found.kind in ("resource", "data") else None

    def _check_reference(self, block: Block, path: str) -> Iterator[str]:
        parts = _parts(path)
        length = 3 if parts[0] == "data" else 2
        target = self.declared.get(".".join(parts[:length]))
        if target is None:
            self.faults.append(f"{block.address}: there is no {path}.")
            return
        yield target.address
        rest = parts[length:]
        if target.kind not in ("resource", "data") or not rest:
            return
        if ("for_each" in target.body) != rest[0].startswith("["):
            self.faults.append(f"{block.address}: {path} must {'' if 'for_each' in target.body else 'not '}have a key.")
        schema = self.table[target.kind].get(target.labels[0])
        if schema:
            self._check_read(block.address, rest, schema)

    def _check_read(self, where: str, parts: list[str], schema: Mapping[str, Any]) -> None:
        """Check the names of a path below a resource, such as `template[0].containers[0].image`."""
        level: Any = {name.rstrip("!"): kind for name, kind in schema["arguments"].items()}
        level |= {name: "attribute" for name in schema["attributes"] if name not in level} | {"id": "string"}
        for name in (part for part in parts if not part.startswith("[")):
            if not isinstance(level, dict) or name not in level:
                self.faults.append(f"{where}: {'.'.join(parts)} does not exist.")
                return
            level = level[name][0] if isinstance(level[name], list) else level[name]
            if isinstance(level, dict):
                level = {name.rstrip("!"): kind for name, kind in level.items()}

    def _check_template(self, block: Block, text: str) -> None:
        """Check that a template is given exactly the values that it names."""
        for name, given in re.findall(r'templatefile\("\$\{path\.module\}/([^"]+)",(.*)', text, re.DOTALL):
            content = self.files.get(name)
            if content is None:
                self.faults.append(f"{block.address}: there is no file {name}.")
                continue
            names = set(re.findall(rf"({_NAME})\s*=(?![=>])", _code(given)))
            if names != set(re.findall(rf"\$\{{({_NAME})\}}", content)):
                self.faults.append(f"{block.address}: {name} is not given the values that it names.")


@cache
def blocks_of(text: str) -> list[Block]:
    """The blocks of a file; each value of a `locals` block is one."""
    blocks = []
    options = SerializationOptions(with_comments=False)
    for kind, entries in hcl2.loads(text, serialization_options=options).items():
        for body in entries:
            labels = []
            while kind != "locals" and len(body) == 1 and next(iter(body)).startswith('"'):
                label, body = next(iter(body.items()))
                labels.append(label.strip('"'))
            if kind == "locals":
                names = (name for name in body if not name.startswith("__"))
                blocks += [Block("local", (name,), {"value": body[name]}) for name in names]
            else:
                blocks.append(Block(kind, tuple(labels), body))
    return blocks


def _expressions(block: Block) -> Iterator[str]:
    """All expressions of a block. A variable's type and the paths of ignore_changes are none."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, each in value.items():
                if name not in ("ignore_changes", _BLOCK) and not (block.kind == "variable" and name == "type"):
                    yield from walk(each)
        elif isinstance(value, list):
            for each in value:
                yield from walk(each)
        elif isinstance(value, str):
            yield _expression(value)

    return walk(block.body)


def _expression(text: str) -> str:
    return text[2:-1] if text.startswith("${") else text


def _code(text: str) -> str:
    """An expression without the contents of its strings, except what they interpolate."""
    code, inside = [], ["code"]
    position = 0
    while position < len(text):
        rest, step = text[position:], 1
        if inside[-1] == "string":
            if rest.startswith(("\\", "$${")):
                step = 2
            elif rest.startswith("${"):
                inside.append("code")
                code.append(" ")
                step = 2
            elif rest[0] == '"':
                inside.pop()
                code.append('"')
        elif rest[0] == '"':
            inside.append("string")
            code.append('"')
        elif rest[0] == "{":
            inside.append("code")
            code.append("{")
        elif rest[0] == "}":
            inside.pop()
            code.append(" " if inside[-1] == "string" else "}")
        else:
            code.append(rest[0])
        position += step
    return "".join(code)


def _paths(code: str) -> Iterator[tuple[str, str]]:
    """The paths of an expression, such as `var.region`, those in indices too, and the code after each."""
    for match in _PATH.finditer(code):
        yield match[0], code[match.end() :].lstrip()
        for index in re.findall(r"\[([^\[\]]*)\]", match[0]):
            yield from _paths(index)


def _parts(path: str) -> list[str]:
    return re.findall(rf"{_NAME}|\[[^\[\]]*\]", path)


def _is_of_type(value: Any, kind: str) -> bool:
    """Whether a literal has a type of the schema. Expressions have any type."""
    if kind.startswith(("array", "map")):
        return isinstance(value, list if kind.startswith("array") else dict) or str(value).startswith("${")
    if isinstance(value, str) and value.startswith("${"):
        return True
    return isinstance(value, _LITERALS[kind]) and isinstance(value, bool) == (kind == "boolean")


def read_files(folder: Path = FOLDER) -> dict[str, str]:
    """The text files of a folder by name."""
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def used_table(whole: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The part of the provider's schema for the types that the files use."""
    blocks = [block for name, text in files.items() if name.endswith(".tf") for block in blocks_of(text)]
    table: dict[str, Any] = {"provider": whole["provider"]}
    for kind in ("resource", "data"):
        types = sorted({block.labels[0] for block in blocks if block.kind == kind} & set(whole[kind]))
        table[kind] = {name: _compact(whole[kind][name]) for name in types}
    return table


def _compact(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"arguments": _compact_arguments(schema["arguments"]), "attributes": schema["attributes"]}


def _compact_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    compact = {}
    for name, each in arguments.items():
        kind: Any = each["type"]
        if "block" in each:
            kind = _compact_arguments(each["block"])
            kind = [kind] if each["type"].startswith("array") else kind
        compact[name + ("!" if each["required"] else "")] = kind
    return compact


def _lines(table: Mapping[str, Any]) -> str:
    """The table as JSON with one line for each argument of a type."""
    text = json.dumps(table, indent=1, sort_keys=True)
    text = re.sub(r"\n {5,}|\n {4}(?=[\]}])", " ", text)
    return re.sub(r"(?<=attributes\": )\[[^\]]*\]", lambda match: " ".join(match[0].split()), text)


if __name__ == "__main__":
    TABLE.write_text(_lines(used_table(json.loads(Path(sys.argv[1]).read_text()), read_files())) + "\n")
