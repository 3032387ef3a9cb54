"""What a person types when the daemon starts, in place of the sources that are prompts."""

from __future__ import annotations

import sys

import click
import msgspec

from mpc.disclosure import Bounds, Categories
from mpc.errors import ConfigError
from nodes.config.patient import PatientConfig
from nodes.sources.base import Entry, entry
from nodes.sources.literal import LiteralValues


class Answers:
    """What was typed since this process began. Prints nothing of it."""

    def __init__(self, *, ask: bool = True) -> None:
        """Without `ask`, questions stay: for a look at a configuration that reads no value."""
        self._ask = ask
        self._first = True
        self._given: dict[tuple[str, str], Entry] = {}
        """By variable and question."""

    def fill(self, config: PatientConfig) -> PatientConfig:
        """The configuration with what was typed in place of its prompts.

        Asks the first time only. Raises ConfigError where there is no terminal, or a reload brings a new question.
        """
        sources = dict(config.sources)
        for variable, source in config.sources.items() if self._ask else ():
            if source.prompt is not None:
                value = self._answer(variable, source.prompt.text, source.declared)
                # Again at a reload, which may have brought narrower bounds, or categories.
                literal = LiteralValues(value)
                for problem in literal.problems(source.declared):
                    raise ConfigError(f"sources.{variable}.prompt: what was typed {problem.text}; or restart the daemon")
                sources[variable] = source.holding(literal)
        self._first = False
        return msgspec.structs.replace(config, sources=sources)

    def _answer(self, variable: str, question: str, declared: Bounds | Categories) -> Entry:
        if (variable, question) not in self._given:
            if not self._first:
                raise ConfigError(
                    f"sources.{variable}.prompt: is new, and a person is asked at the start only; restart the daemon"
                )
            if not sys.stdin.isatty():
                raise ConfigError(
                    f"sources.{variable}.prompt: asks a person, and this process has no terminal; start it on one, or use "
                    f"another kind of source where nobody sits"
                )
            self._given[variable, question] = _ask(question, declared)
        return self._given[variable, question]


def _ask(question: str, declared: Bounds | Categories) -> Entry:
    """Until it is a value that is declared."""
    while True:
        typed = click.prompt(question, hide_input=True, confirmation_prompt="Once more, to be sure", err=True)
        try:
            value = entry(declared, typed)
        except ValueError as rule:
            click.echo(f"that {rule}", err=True)
            continue
        if value is not None and _fits(declared, value):
            return value
        click.echo(f"it must be {_expected(declared)}", err=True)


def _fits(declared: Bounds | Categories, value: Entry) -> bool:
    if isinstance(declared, Categories) or isinstance(value, str):
        return isinstance(declared, Categories) and value in declared.names
    return declared.minimum <= value <= declared.maximum


def _expected(declared: Bounds | Categories) -> str:
    if isinstance(declared, Categories):
        return f"one of {', '.join(sorted(declared.names))}"
    return f"a {'whole ' if declared.whole else ''}number within {declared}"
