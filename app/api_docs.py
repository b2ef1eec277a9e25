"""The API's description for people: one page made from the OpenAPI schema, without scripts and without another machine.

Swagger's own page takes its scripts from a CDN. /openapi.json is there for tools.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

STYLE = """
  :root { color-scheme: light dark; }
  body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
  code, pre { font-family: ui-monospace, monospace; font-size: 0.9rem; }
  h2 code { font-size: 1.2rem; }
  pre { padding: 0.75rem; overflow-x: auto; border: 1px solid #8888; border-radius: 6px; }
  table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
  th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.5rem; border-bottom: 1px solid #8884; }
  section { margin-top: 2.5rem; }
"""
EXAMPLE = {"messages": [{"role": "user", "content": "What is gout?"}]}


def docs_html(schema: dict[str, Any]) -> str:
    """Every route with its fields and a command that tries it."""
    sections = "".join(
        _route(path, method, route, schema)
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(schema["info"]["title"])}</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>
<body><h1>{escape(schema["info"]["title"])}</h1><p>{escape(schema["info"]["description"])}</p>
<p><a href="openapi.json">openapi.json</a> is this for programs.</p>{sections}</body></html>"""


def _route(path: str, method: str, route: dict[str, Any], schema: dict[str, Any]) -> str:
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answer = route["responses"]["200"].get("content", {}).get("application/json", {}).get("schema")
    command = f"curl $SERVER{path}"
    if body is not None:
        example = EXAMPLE if "model" not in _fields(body, schema) else {"model": "NAME", **EXAMPLE}
        command += f" -H 'Content-Type: application/json' -d '{json.dumps(example)}'"
    errors = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(told['description'])}</td></tr>"
        for status, told in route["responses"].items()
        if status != "200"
    )
    return f"""<section><h2><code>{method.upper()} {escape(path)}</code></h2>
<p>{escape(route["summary"])}. {escape(route.get("description", ""))}</p><pre>{escape(command)}</pre>
{_table("The request", body, schema)}{_table("The answer", answer, schema)}
{f"<h3>Errors</h3><table>{errors}</table>" if errors else ""}</section>"""


def _fields(reference: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = reference.get("$ref", "").rpartition("/")[2]
    return dict(schema["components"]["schemas"].get(name, {}).get("properties", {}))


def _table(title: str, reference: dict[str, Any] | None, schema: dict[str, Any]) -> str:
    fields = _fields(reference, schema) if reference else {}
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(field))}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in fields.items()
    )
    return f"<h3>{title}</h3><table>{rows}</table>" if rows else ""


def _kind(field: dict[str, Any]) -> str:
    """A field's type in words, with its bounds."""
    if "anyOf" in field:
        return " or ".join(_kind(it) for it in field["anyOf"] if it.get("type") != "null")
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    if "const" in field:
        return json.dumps(field["const"])
    names = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"), ("maxLength", "at most"))
    return " ".join([str(field.get("type", "")), *(f"{word} {field[key]}" for key, word in names if key in field)])
