"""Which values are not as a specification has it. Runs where PyYAML and jsonschema_rs are: beside schemathesis.

Standard input: [{"spec": path of the file, "at": [keys down to a schema], "values": […]}, …] as JSON. A schema of an
event stream gets events, of the form {"id": …, "data": "…"}. Standard output: for each, a list with what is wrong with
each value, or null.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml


def problem_of(document: dict[str, Any], schema: dict[str, Any], value: Any) -> str | None:
    """Return what is wrong with a value."""
    while "$ref" in schema:
        schema = at(document, schema["$ref"].removeprefix("#/").split("/"))
    if "anyOf" in schema:  # each followed by itself: the events of a run that is kept hold JSON
        problems = [problem_of(document, each, value) for each in schema["anyOf"]]
        return None if None in problems else problems[0]
    rooted = {**schema, "components": document["components"]}
    try:
        jsonschema_rs.Draft202012Validator(rooted, validate_formats=True).validate(value)
    except jsonschema_rs.ValidationError as error:
        return str(error)
    data = schema.get("properties", {}).get("data", {})
    if "contentSchema" in data:  # an event
        return problem_of(document, data["contentSchema"], json.loads(value["data"]))
    return None


def at(document: Any, keys: list[str]) -> Any:
    """Return what stands there."""
    for key in keys:
        document = document[key]
    return document


documents: dict[str, Any] = {}
found = []
for each in json.load(sys.stdin):
    if each["spec"] not in documents:
        documents[each["spec"]] = yaml.safe_load(Path(each["spec"]).read_text())
    document = documents[each["spec"]]
    found.append([problem_of(document, at(document, each["at"]), value) for value in each["values"]])
json.dump(found, sys.stdout)
