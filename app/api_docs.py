"""The API's description for people: one page made from the OpenAPI schema, without scripts and without another machine.

Swagger's own page takes its scripts from a CDN. /openapi.json is there for tools.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

STYLE = """
  :root { color-scheme: light dark; }
  body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
  code, pre { font-family: ui-monospace, monospace; font-size: 0.9rem; }
  h2 code { font-size: 1.2rem; }
  pre { padding: 0.75rem; white-space: pre-wrap; border: 1px solid #8888; border-radius: 6px; }
  table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
  td { vertical-align: top; padding: 0.25rem 0.5rem; border-bottom: 1px solid #8884; }
  td:first-child { width: 34%; min-width: 12rem; }
  section { margin-top: 2.5rem; }
"""
EXAMPLE = {"messages": [{"role": "user", "content": "What is gout?"}]}
BOUNDS = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("maxLength", "of at most"))


def docs_html(schema: dict[str, Any], server: str) -> str:
    """Every route of the API at `server` (a URL that ends with /) with a command that tries it, the errors, and every object."""
    routes = [(path, method, route) for path, them in schema["paths"].items() for method, route in them.items()]
    shown = "".join(_route(path, method, route, server) for path, method, route in routes)
    kinds = "".join(_kind_section(name, kind) for name, kind in schema["components"]["schemas"].items())
    errors = {status: it["description"] for _, _, route in routes for status, it in route["responses"].items()}
    rows = [(escape(status), escape(told)) for status, told in errors.items() if status != "200"]
    title = escape(schema["info"]["title"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: the API</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>
<body><h1>{title}: the API</h1><p>{escape(schema["info"]["description"])}</p>
<p><a href="openapi.json">openapi.json</a> is this for programs.</p>{shown}
<section><h2>Errors</h2><p>Each is an <a href="#ErrorAnswer">ErrorAnswer</a>.</p>{_table(rows)}</section>
{kinds}</body></html>"""


def _route(path: str, method: str, route: dict[str, Any], server: str) -> str:
    body = _content(route.get("requestBody", {}))
    command = f"curl {server}{path.removeprefix('/')}"
    if body is not None:
        example = {"model": "NAME", **EXAMPLE} if "Completion" in body["$ref"] else EXAMPLE
        command += f" -H 'Content-Type: application/json' -d '{json.dumps(example)}'"
    takes = f"It takes a {_kind(body)} and" if body is not None else "It"
    told = re.sub("`(.+?)`", r"<code>\1</code>", escape(f"{route['summary']}. {route.get('description', '')}"))
    return f"""<section><h2><code>{method.upper()} {escape(path)}</code></h2>
<p>{told} {takes} gives a {_kind(_content(route["responses"]["200"]) or {})}.</p><pre>{escape(command)}</pre></section>"""


def _content(part: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a request's or an answer's JSON."""
    found: dict[str, Any] | None = part.get("content", {}).get("application/json", {}).get("schema")
    return found


def _kind_section(name: str, kind: dict[str, Any]) -> str:
    """What an object consists of."""
    rows = []
    for field, it in kind.get("properties", {}).items():
        needed = "needed: " if field in kind.get("required", ()) else ""
        told = f"; {escape(it['description'])}" if "description" in it else ""
        rows.append((f"<code>{escape(field)}</code>", f"{needed}{_kind(it)}{told}"))
    return f'<section id="{escape(name)}"><h2>{escape(name)}</h2>{_table(rows)}</section>'


def _table(rows: list[tuple[str, str]]) -> str:
    return f"<table>{''.join(f'<tr><td>{name}</td><td>{told}</td></tr>' for name, told in rows)}</table>"


def _kind(field: dict[str, Any]) -> str:
    """A field's type as HTML, with its bounds."""
    if "anyOf" in field:
        return " or ".join(_kind(it) for it in field["anyOf"] if it.get("type") != "null")
    if "$ref" in field:
        name = escape(str(field["$ref"].rpartition("/")[2]))
        return f'<a href="#{name}">{name}</a>'
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    if "enum" in field:
        return " or ".join(escape(json.dumps(it)) for it in field["enum"])
    if "const" in field:
        return escape(json.dumps(field["const"]))
    bounds = (f"{word} {field[key]:.10g}" for key, word in BOUNDS if key in field)
    return escape(" ".join([str(field.get("type", "")), *bounds]))
