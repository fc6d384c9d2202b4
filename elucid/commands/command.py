"""Base classes of all commands: flags in named groups, and suggestions for mistyped flags."""

from collections.abc import Callable, Iterable, Mapping

import click

from elucid.commands.flags.foreign import FOREIGN_FLAGS, FOREIGN_FLAGS_OF_TRAINING
from elucid.dnnlib.errors import did_you_mean
from elucid.dnnlib.plugins import installed
from elucid.training.registry.adm_options import DIFFUSION, OTHERS, RENAMED
from elucid.training.registry.names import TABLES
from elucid.version import __version__

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def section(title: str, *options: Callable) -> Callable:
    """Return a decorator that adds options to a command, under a heading in its help."""

    def add(function: Callable) -> Callable:
        before = len(getattr(function, "__click_params__", []))
        for option in reversed(options):
            function = option(function)
        for parameter in function.__click_params__[before:]:
            parameter.section = title
        return function

    return add


class _Answers(click.Command):
    """Base of commands and groups. `examples` are printed before the flags; flags may be written with - or _."""

    def __init__(self, *args, examples: Iterable[str] = (), **options):
        options["context_settings"] = {**SETTINGS, **(options.get("context_settings") or {})}
        super().__init__(*args, **options)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        try:
            return super().parse_args(ctx, [_spelled(argument, known) for argument in args])
        except click.NoSuchOption as error:
            raise click.UsageError(_no_such_flag(error.option_name, known)) from error
        except click.MissingParameter as error:
            name = max(error.param.opts, key=len) if error.param else "a flag"
            raise click.UsageError(f"{name} is missing; see {ctx.command_path} --help") from error

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        if self.examples:
            formatter.write_paragraph()
            with formatter.indentation():
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class Command(_Answers):
    """A command with its flags in named groups."""


class Group(_Answers, click.Group):
    """A command with subcommands."""

    command_class = Command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(
                f"no command {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}; there are {known}"
            ) from error


version_option = click.version_option(__version__, "--version", message="Elucid %(version)s")
"""Decorator for --version."""


class Name(click.ParamType):
    """The name of a component: a short name of its kind, or `module:Name`. Checked before torch is imported."""

    name = "name"

    def __init__(self, kind: str, table: Mapping[str, object] | None = None, also: Iterable[str] = ()):
        self.kind, self.table, self.also = kind, TABLES[kind] if table is None else table, tuple(also)

    def convert(self, value, param, ctx):
        if ":" not in value:
            self.require(value)
        return value

    def require(self, name: str) -> None:
        known = sorted({*self.table, *self.also, *installed(self.kind)})
        if name not in known:
            outside = ", or file.py:Name" if self.kind in TABLES else ""
            raise click.UsageError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}{outside}"
            )


class Chain(Name):
    """Losses that wrap one another, e.g. `patch(cdm(edm))`."""

    def convert(self, value, param, ctx):
        for name in value.replace(")", "").split("("):
            if name.strip() and ":" not in name:
                self.require(name.strip())
        return value


def _spelled(argument: str, known: set[str]) -> str:
    """Return the argument with hyphens or underscores as in its flag."""
    flag, equals, value = argument.partition("=")
    if not flag.startswith("--") or flag in known:
        return argument
    same = [option for option in known if option.replace("_", "-") == flag.replace("_", "-")]
    return f"{same[0]}{equals}{value}" if len(same) == 1 else argument


def _no_such_flag(flag: str, known: set[str]) -> str:
    name = flag.lstrip("-").replace("-", "_").lower()
    meant = (FOREIGN_FLAGS | (FOREIGN_FLAGS_OF_TRAINING if "--dump" in known else {})).get(name)
    if {"--network", "--adm_preset"} <= known and name in {*RENAMED, *OTHERS, *DIFFUSION}:
        meant = f"--set network.{name}=VALUE, for a state dict; a snapshot has its own"
    if meant is not None and meant.split()[0].rstrip(",:;") in known:
        return f"no option {flag}; here it is {meant}"
    return f"no option {flag}{did_you_mean(flag, known)}; see --help"
