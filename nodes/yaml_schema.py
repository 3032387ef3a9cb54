"""What `yaml_struct` reads, as a JSON schema (draft 2020-12), by which editors complete keys and show most mistakes at once.

It says what can be said of one key: its type, its limits, what is chosen from. Rules between keys are for `--check`.
Descriptions are the docstrings of classes and of the fields below which they stand.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as mi

from nodes.yaml_struct import form_of

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_SIZES = {
    mi.StrType: ("minLength", "maxLength"),
    mi.VarTupleType: ("minItems", "maxItems"),
    mi.ListType: ("minItems", "maxItems"),
    mi.DictType: ("minProperties", "maxProperties"),
}


def schema_of(type: type[Any], title: str) -> Schema:
    """The schema of files that `yaml_struct.load` reads as a `type`, a struct."""
    definitions: dict[str, Schema] = {}
    top = _schema(mi.type_info(type), definitions)
    return {"$schema": DIALECT, "title": title, **top, "$defs": dict(sorted(definitions.items()))}


def _schema(kind: mi.Type, definitions: dict[str, Schema]) -> Schema:
    form = form_of(kind)
    if form is not None:
        return _schema(form, definitions)
    match kind:
        case mi.Metadata():
            return _schema(kind.type, definitions) | (kind.extra_json_schema or {})
        case mi.UnionType():
            return {"anyOf": [_schema(choice, definitions) for choice in kind.types]}
        case mi.StructType() | mi.DataclassType():
            if kind.cls.__name__ not in definitions:
                definitions[kind.cls.__name__] = {}  # for a struct that holds itself
                definitions[kind.cls.__name__] = _object(kind, definitions)
            return {"$ref": f"#/$defs/{kind.cls.__name__}"}
        case mi.DictType():
            keys, values = (_schema(of, definitions) for of in (kind.key_type, kind.value_type))
            return {"type": "object", "propertyNames": keys, "additionalProperties": values} | _sizes(kind)
        case mi.VarTupleType() | mi.ListType():
            return {"type": "array", "items": _schema(kind.item_type, definitions)} | _sizes(kind)
        case mi.TupleType():
            items = [_schema(item, definitions) for item in kind.item_types]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        case _:
            return _scalar(kind)


def _scalar(kind: mi.Type) -> Schema:
    match kind:
        case mi.NoneType():
            return {"type": "null"}
        case mi.BoolType():
            return {"type": "boolean"}
        case mi.IntType() | mi.FloatType():
            limits = {name: getattr(kind, rule) for rule, name in _LIMITS.items() if getattr(kind, rule) is not None}
            return {"type": "integer" if isinstance(kind, mi.IntType) else "number"} | limits
        case mi.LiteralType():
            return {"enum": list(kind.values)}
        case mi.EnumType():
            return {"enum": [member.value for member in kind.cls]}
        case mi.StrType():
            return {"type": "string"} | _sizes(kind) | ({"pattern": kind.pattern} if kind.pattern is not None else {})
        case mi.CustomType() if kind.cls is Path:
            return {"type": "string", "minLength": 1}
        case _:
            raise TypeError(f"a configuration holds no {kind}")


def _sizes(kind: mi.StrType | mi.VarTupleType | mi.ListType | mi.DictType) -> Schema:
    least, most = _SIZES[type(kind)]
    return {name: size for name, size in ((least, kind.min_length), (most, kind.max_length)) if size is not None}


def _object(kind: mi.StructType | mi.DataclassType, definitions: dict[str, Schema]) -> Schema:
    told = _docstrings(kind.cls)
    properties = {}
    for field in kind.fields:
        schema = _schema(field.type, definitions)
        name = field.encode_name
        # Beside a reference other keywords count, too, since draft 2019-09.
        properties[name] = schema | ({"description": told[name]} if name in told else {}) | _default(field.default)
    required = [field.encode_name for field in kind.fields if field.required]
    return {
        "type": "object",
        "description": _line(inspect.getdoc(kind.cls) or ""),
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _default(value: object) -> Schema:
    """Of a scalar; what is left out of the file is told of others by the defaults of their own fields."""
    if isinstance(value, Path):
        return {"default": str(value)}
    return {"default": value} if isinstance(value, str | int | float) else {}


def _docstrings(cls: type[Any]) -> dict[str, str]:
    """What stands below each field, of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base not in (object, msgspec.Struct) and hasattr(base, "__annotations__"):
            [definition] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(definition, ast.ClassDef), "the source of a class"
            for field, below in zip(definition.body, definition.body[1:], strict=False):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                        found[name] = _line(text)
    return found


def _line(text: str) -> str:
    """The first paragraph, as one line of plain text."""
    return " ".join(text.partition("\n\n")[0].split()).replace("`", "")
