"""Settings as options of a command line, in groups by section."""

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Union, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

import command_line
from files import PROJECT
from reading.structured import read_toml
from settings import SECTIONS, Settings
from settings.stages import Stage

PRESETS = PROJECT / "presets"
METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", list: "A,B", Stage: "TOML"}


def options(aliases: Mapping[str, str] = {}, names: Collection[str] = Settings.model_fields) -> Any:
    """Return the type of a command's parameter that takes settings as options.

    Its value is a dictionary of the settings that were given, by name: texts, and bools of flags.

    Args:
        aliases: further options, by the setting's name.
        names: of the settings.
    """
    fields, preset = {}, preset_of_help(sys.argv)
    for title, section in SECTIONS.items():
        group = Group.create_ordered(title)
        for name, field in section.model_fields.items():
            if name in names:
                default = preset.get(name, field.default)
                fields[name] = option(field, group, aliases.get(name), default)
    return Annotated[TypedDict("Given", fields, total=False), Parameter(name="*")]  # pyright: ignore


def preset_of_help(arguments: Sequence[str]) -> Mapping[str, object]:
    """Return the settings of a preset that is named together with --help, which shows them."""
    named = re.search(r" --preset[= ](\w+)", " ".join(arguments))
    path = PRESETS / f"{named[1]}.toml" if named else PRESETS
    asked = command_line.HELP.intersection(arguments) and path.is_file()
    return read_toml(path, "") if asked else {}


def option(field: FieldInfo, group: Group, alias: str | None, default: object) -> Any:
    """Return the option of one setting: a flag, or a text that `settings.load` checks."""
    kind = kind_of(field.annotation)
    if get_args(field.annotation)[:1] == (Stage,):
        kind = Stage
    hint: Any = {bool: bool, list: list[str]}.get(kind, str)
    shown = "" if default in (None, "", []) else f" [{default}]"
    parameter = Parameter(
        help=f"{field.description}{shown}",
        metavar=None if kind is Literal else METAVARS.get(kind, "PATH"),
        group=group,
        alias=alias,
        choices=get_args(field.annotation) if kind is Literal else None,
        consume_multiple=False,
        allow_repeating=True,
    )
    return Annotated[hint, parameter]


def kind_of(annotation: Any) -> Any:
    """Return the class of a setting's values, or Literal: of ``PositiveInt | None`` int."""
    origin = get_origin(annotation)
    if origin in (Annotated, Union, UnionType):
        return kind_of(get_args(annotation)[0])
    return origin or annotation


if TYPE_CHECKING:
    Given = Mapping[str, Any]
else:
    Given = options()
NOTHING: Given = {}
app = command_line.program("train.py", Settings.__doc__ or "")


@app.default
def settings_given(given: Given = NOTHING) -> Given:
    """Return the settings that a command line gives."""
    return given


def parse(arguments: Sequence[str]) -> Given:
    """Return the settings that ``arguments`` give, by name, unchecked.

    Raises:
        InputError: an option is unknown or lacks its value; one line.
    """
    return command_line.call(app, arguments)
