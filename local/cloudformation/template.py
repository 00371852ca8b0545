"""Templates: reading them, the order of their resources, and their intrinsic functions."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import yaml

NO_VALUE = object()
_SUBSTITUTION = re.compile(r"\$\{(!?)([^}]*)\}")
_DYNAMIC_REFERENCE = re.compile(r"\{\{resolve:(ssm|ssm-secure|secretsmanager):([^}]+)\}\}")


class TemplateError(ValueError):
    """The template is not valid; CloudFormation answers with a ValidationError."""


class _ShortForms(yaml.SafeLoader):
    """YAML with CloudFormation's short forms (!Ref, !GetAtt, ...)."""


def _short_form(loader: _ShortForms, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)  # noqa: S101 - the three kinds of node there are
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_ShortForms.add_multi_constructor("!", _short_form)
# dates such as the template's version stay text
_ShortForms.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(body: str) -> dict[str, Any]:
    """The template of a JSON or YAML text. Raises TemplateError when it is neither, or holds no resources."""
    try:
        # S506: the loader is a SafeLoader
        template = json.loads(body) if body.lstrip().startswith("{") else yaml.load(body, _ShortForms)  # noqa: S506
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise TemplateError(f"Template format error: {error}") from error
    if not isinstance(template, dict) or not template.get("Resources"):
        raise TemplateError("Template format error: At least one Resources member must be defined.")
    return template


def references(value: Any) -> Iterator[str]:
    """The logical ids (and pseudo parameters) that a part of a template refers to."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "Ref":
                yield item
            elif key == "Fn::GetAtt":
                yield item.split(".")[0] if isinstance(item, str) else item[0]
            elif key == "Fn::Sub":
                text, names = (item, {}) if isinstance(item, str) else item
                for literal, name in _SUBSTITUTION.findall(text):
                    if not literal and name not in names:
                        yield name.split(".")[0]
                yield from references(names)
            else:
                yield from references(item)


def dependencies(resource: Mapping[str, Any]) -> set[str]:
    """What a resource refers to or names in DependsOn."""
    explicit = resource.get("DependsOn", [])
    named = [explicit] if isinstance(explicit, str) else explicit
    return {*references(resource.get("Properties", {})), *named}


def creation_order(resources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Logical ids so that each stands after those it depends on."""
    graph: TopologicalSorter[str] = TopologicalSorter()
    for logical_id, resource in resources.items():
        graph.add(logical_id, *(name for name in sorted(dependencies(resource)) if name in resources))
    try:
        return list(graph.static_order())
    except CycleError as error:
        names = ", ".join(dict.fromkeys(error.args[1]))
        raise TemplateError(f"Circular dependency between resources: [{names}]") from error


class Resolver:
    """Evaluates the intrinsic functions of one template.

    `reference` gives the value of a Ref to a resource, `attribute` that of a GetAtt, `imported` that of an
    export, `dynamic` that of a dynamic reference (service, key), `zones` the region's availability zones.
    """

    def __init__(
        self,
        *,
        template: Mapping[str, Any],
        parameters: Mapping[str, Any],
        pseudo: Mapping[str, Any],
        reference: Callable[[str], Any],
        attribute: Callable[[str, str], Any],
        imported: Callable[[str], str],
        dynamic: Callable[[str, str], str],
        zones: Callable[[], list[str]],
    ) -> None:
        self._template = template
        self._values = {**parameters, **pseudo, "AWS::NoValue": NO_VALUE}
        self._reference = reference
        self._attribute = attribute
        self._imported = imported
        self._dynamic = dynamic
        self._zones = zones

    def condition(self, name: str | None) -> bool:
        """Whether a named condition holds; no name means no condition."""
        if name is None:
            return True
        try:
            return bool(self.resolve(self._template["Conditions"][name]))
        except KeyError:
            raise TemplateError(f"Template format error: Unresolved condition {name}") from None

    def resolve(self, value: Any) -> Any:
        """The value with every function evaluated and AWS::NoValue left out."""
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not NO_VALUE]
        if isinstance(value, str):
            return _DYNAMIC_REFERENCE.sub(lambda found: self._dynamic(found[1], found[2]), value)
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            [(name, argument)] = value.items()
            if name == "Ref":
                return self._ref(argument)
            if name == "Condition" and isinstance(argument, str):
                return self.condition(argument)
            if name.startswith("Fn::"):
                function = getattr(self, "_" + name[4:].lower(), None)
                if function is None:
                    raise TemplateError(f"Template format error: unsupported function {name}")
                return function(argument)
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not NO_VALUE}

    def _ref(self, name: str) -> Any:
        return self._values[name] if name in self._values else self._reference(name)

    def _getatt(self, argument: Any) -> Any:
        resource, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
        return self._attribute(resource, self.resolve(attribute))

    def _sub(self, argument: Any) -> str:
        text, names = (argument, {}) if isinstance(argument, str) else argument

        def value(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return f"${{{name}}}"
            if name in names:
                return str(self.resolve(names[name]))
            return str(self._getatt(name) if "." in name else self._ref(name))

        return str(self.resolve(_SUBSTITUTION.sub(value, text)))

    def _join(self, argument: Any) -> str:
        separator, items = argument
        # a dynamic reference may come together from parts
        return str(self.resolve(separator.join(str(item) for item in self.resolve(items))))

    def _split(self, argument: Any) -> list[str]:
        return str(self.resolve(argument[1])).split(argument[0])

    def _select(self, argument: Any) -> Any:
        return self.resolve(argument[1])[int(self.resolve(argument[0]))]

    def _if(self, argument: Any) -> Any:
        name, positive, negative = argument
        return self.resolve(positive if self.condition(name) else negative)

    def _equals(self, argument: Any) -> bool:
        left, right = self.resolve(argument)
        return str(left) == str(right)

    def _and(self, argument: Any) -> bool:
        return all(self.resolve(argument))

    def _or(self, argument: Any) -> bool:
        return any(self.resolve(argument))

    def _not(self, argument: Any) -> bool:
        return not self.resolve(argument)[0]

    def _findinmap(self, argument: Any) -> Any:
        table, first, second = (self.resolve(item) for item in argument[:3])
        try:
            return self._template["Mappings"][table][first][second]
        except KeyError:
            raise TemplateError(
                f"Template error: Unable to get mapping for {table}::{first}::{second}"
            ) from None

    def _importvalue(self, argument: Any) -> str:
        return self._imported(self.resolve(argument))

    def _getazs(self, argument: Any) -> list[str]:
        region = self.resolve(argument)
        if region not in ("", self._values["AWS::Region"]):
            raise TemplateError(f"Template error: Fn::GetAZs of another region: {region}")
        return self._zones()

    def _base64(self, argument: Any) -> str:
        return base64.b64encode(str(self.resolve(argument)).encode()).decode()

    def _cidr(self, argument: Any) -> list[str]:
        block, count, bits = [*self.resolve(argument), 8][:3]
        networks = ipaddress.ip_network(block).subnets(new_prefix=32 - int(bits))
        return [str(network) for network, _ in zip(networks, range(int(count)), strict=False)]

    def _tojsonstring(self, argument: Any) -> str:
        return json.dumps(self.resolve(argument))
