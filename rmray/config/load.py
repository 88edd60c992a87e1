"""YAML and dotted overrides in, a checked config out; faults name the dotted path, the value, the file and the line.

Called by the command line and the job scripts; `save_config` writes the resolved file that is kept with every run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rmray.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)
Path_ = tuple[str, ...]

FOREIGN_NAMES = {
    "learning_rate": "optim.lr",
    "num_train_epochs": "optim.epochs",
    "num_epochs": "optim.epochs",
    "batch_size": "optim.global_batch_size",
    "per_device_train_batch_size": "optim.global_batch_size",
    "train_batch_size": "optim.global_batch_size",
    "gradient_accumulation_steps": "workers.max_micro_batch_tokens",
    "lr_scheduler_type": "optim.schedule",
    "lora_r": "model.lora.r",
    "lora_rank": "model.lora.r",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_target_modules": "model.lora.targets",
    "target_modules": "model.lora.targets",
    "center_rewards_coefficient": "objective.center",
    "model_name_or_path": "model.base",
    "pretrain": "model.base",
    "output_dir": "run.storage",
    "num_workers": "workers.num",
    "max_len": "data.max_length",
    "logging_steps": "evaluate.every_steps",
    "save_steps": "checkpoint.every_steps",
    "eval_steps": "evaluate.every_steps",
    "bf16": "model.dtype",
    "torch_dtype": "model.dtype",
}
"""What TRL, OpenRLHF and transformers call our fields: no similarity of letters would find them."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers and booleans: `1e-5` is a number, `no` is a word; a key twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_REPLACED_TAGS = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$", re.IGNORECASE),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` or YAML 1.1 would read as no text: a run may be called `1e5`."""


for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def load_config(kind: type[Config], path: str | Path | None, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """A checked config of `kind` from a YAML file (or none) and dotted overrides, later ones winning.

    Raises ConfigError with every fault found: unknown keys with the nearest known one, wrong types with dotted path,
    value, file and line.
    """
    tree: dict[str, Any] = {}
    lines: dict[Path_, str] = {}
    if path is not None:
        tree, lines = _read_yaml(Path(path))
    for dotted, text in overrides:
        keys = tuple(dotted.split("."))
        _put(tree, keys, _parse_value(dotted, text))
        lines = {k: v for k, v in lines.items() if k[: len(keys)] != keys}
        lines[keys] = f"--{dotted} {text}"
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _config_error(kind, error, lines, str(path) if path else "command line") from None


def save_config(config: BaseModel, path: str | Path, *, exclude_unset: bool = False) -> None:
    """Write the resolved config as YAML that `load_config` reads back to an equal config. exclude_unset: without what
    it has by default."""
    tree = config.model_dump(mode="json", exclude_unset=exclude_unset)
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Path_, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot read the config", where=str(path), why=str(error)) from error
    try:
        node = yaml.compose(text, Loader=_Loader)
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError("not valid YAML", where=str(path), why=str(error)) from error
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError("a config is a mapping of sections", where=str(path), why=f"found {type(tree).__name__}")
    return tree, {keys: f"{path}:{line}" for keys, line in _lines(node)}


def _lines(node: yaml.Node | None, keys: Path_ = ()) -> Iterator[tuple[Path_, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*keys, str(key.value)), key.start_mark.line + 1
            yield from _lines(value, (*keys, str(key.value)))


def _parse_value(dotted: str, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value {text!r}", where=f"--{dotted}", why=str(error)) from error


def _put(tree: dict[str, Any], keys: Path_, value: Any) -> None:
    for key in keys[:-1]:
        below = tree.get(key)
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree[keys[-1]] = value


def known_paths(kind: type[BaseModel], prefix: Path_ = ()) -> Iterator[Path_]:
    """Dotted paths of all sections and fields of a config, as tuples."""
    for name, field in kind.model_fields.items():
        yield (*prefix, name)
        for kind_of_field in (field.annotation, *get_args(field.annotation)):  # a section, or one that may be null
            if isinstance(kind_of_field, type) and issubclass(kind_of_field, BaseModel):
                yield from known_paths(kind_of_field, (*prefix, name))


def _config_error(
    kind: type[BaseModel], error: ValidationError, lines: Mapping[Path_, str], source: str
) -> ConfigError:
    known = set(known_paths(kind))
    faults: dict[Path_, str] = {}
    for detail in error.errors():
        keys = _field_path(detail["loc"], known, extra=detail["type"] == "extra_forbidden")
        if keys not in faults:
            faults[keys] = _describe(keys, detail, known)
        elif (other := _sentence(detail["msg"])) not in faults[keys]:  # a union gives one detail a member
            faults[keys] += f", or {other}"
    messages = [f"{_where(keys, lines, source)}: {text}" for keys, text in faults.items()]
    if len(messages) == 1:
        return ConfigError(messages[0])
    return ConfigError(f"{len(messages)} faults in the config", why="\n       ".join(messages))


def _field_path(loc: Sequence[Any], known: set[Path_], *, extra: bool) -> Path_:
    """The loc without the names that pydantic adds for union members and list places."""
    keys: Path_ = ()
    for part in loc:
        if (*keys, str(part)) in known:
            keys = (*keys, str(part))
        elif extra:
            return (*keys, str(part))
    if not keys and loc:
        return (str(loc[0]),)
    return keys


def _where(keys: Path_, lines: Mapping[Path_, str], source: str) -> str:
    for end in range(len(keys), 0, -1):
        if keys[:end] in lines:
            return lines[keys[:end]]
    return source


def _describe(keys: Path_, detail: Any, known: set[Path_]) -> str:
    dotted = ".".join(keys)
    if detail["type"] == "extra_forbidden":
        near = nearest(keys, known)
        return f"unknown key `{dotted}`" + (f"; did you mean `{near}`?" if near else "")
    if detail["type"] == "missing" and detail["loc"][-1] == keys[-1]:
        return f"`{dotted}` is missing"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return f"`{dotted}` is {detail['input']!r}: {_sentence(detail['msg'])}"


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:]


def nearest(keys: Path_, known: set[Path_]) -> str | None:
    """The known dotted path that an unknown one most likely means, or None."""
    foreign = {name: path for name, path in FOREIGN_NAMES.items() if tuple(path.split(".")) in known}
    if keys[-1] in foreign:
        return foreign[keys[-1]]
    siblings = {".".join(k): k[-1] for k in known if k[:-1] == keys[:-1]}
    everywhere = {".".join(k): k[-1] for k in known}
    for candidates in (siblings, everywhere):
        names = difflib.get_close_matches(keys[-1], candidates.values(), n=1, cutoff=0.6)
        if names:
            return next(path for path, name in candidates.items() if name == names[0])
    misspelt = difflib.get_close_matches(keys[-1], foreign, n=1, cutoff=0.8)
    return foreign[misspelt[0]] if misspelt else None
