"""Read a job's config: a TOML file, overridden by `--section.key=value` on the command line.

A config is one pydantic model per job; this module knows none of them.
"""

from __future__ import annotations

import errno
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Config = TypeVar("Config", bound=BaseModel)

STRICT = ConfigDict(extra="forbid")
"""Every config model uses this: an unknown key is an error."""

OneOrMore = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
"""Several texts; one may stand without brackets."""


class UserError(ValueError):
    """The user's input can't be used; the message says where, what was found, what was expected, what to do."""

    exit_status = 2
    """Of a job that ends with it."""


STOPPED_EARLY_STATUS = 3
"""Exit status of a run that ended early and can be continued."""


def make_early_error(message: str) -> UserError:
    """Make the error of a run that ended early and can be continued."""
    error = UserError(message)
    error.exit_status = STOPPED_EARLY_STATUS
    return error


class JobStatus(int):
    """A job's exit status as a job sees it that called this one; its own process may end with another one."""

    def __new__(cls, status: int, of_process: int) -> JobStatus:
        """Make the status; `of_process` is what run_job exits with."""
        made = super().__new__(cls, status)
        made.of_process = of_process
        return made

    of_process: int


def load_config(config_type: type[Config], job: str, arguments: list[str]) -> Config:
    """Read the config of `python -m jobs.JOB CONFIG.toml [--section.key=value ...]`; the command line wins.

    Prints help and leaves with status 0 for --help. Raises UserError for a file or value that can't be used.
    """
    file = None if not arguments or arguments[0].startswith("-") else Path(arguments[0])
    settings_type = _make_settings_type(config_type, job, file)
    wants_help = {"--help", "-h"} & set(arguments)
    if file is None and not wants_help:
        raise UserError(f"no config file\nexpected: python -m jobs.{job} CONFIG.toml [--section.key=value ...]")
    if file is not None and not file.is_file() and not wants_help:
        raise UserError(f"{file}: no such config file (looked in {Path.cwd()})")
    try:
        settings = settings_type(_cli_parse_args=arguments[0 if file is None else 1 :])
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise UserError(describe_validation_error(error, config_type, f"{file} and the command line")) from error
    return config_type.model_validate({name: getattr(settings, name) for name in config_type.model_fields})


def _make_settings_type(config_type: type[BaseModel], job: str, file: Path | None) -> Any:
    class Settings(BaseSettings, config_type):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(
            extra="forbid",
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_prog_name=f"python -m jobs.{job} CONFIG.toml",
        )

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return () if file is None else (TomlConfigSettingsSource(settings_cls, toml_file=file),)

    Settings.__doc__ = config_type.__doc__
    return Settings


def describe_validation_error(error: ValidationError, config_type: type[BaseModel], where: str) -> str:
    """Write every fault of a config as a line: the key, what was found, what was expected."""
    lines = [f"{where}: {error.error_count()} fault(s) in the config"]
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "(whole config)"
        if fault["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(config_type, fault["loc"][:-1]))
            lines.append(f"  {key}: unknown key; known here: {known}")
        elif fault["type"] == "missing":
            lines.append(f"  {key}: missing; add it to the file or give --{key}=VALUE")
        else:
            # A fault between sections says itself what it found; the whole config might hold what must not be shown.
            found = f" (found {_shorten(fault['input'])})" if fault["loc"] else ""
            lines.append(f"  {key}: {fault['msg'].removeprefix('Value error, ')}{found}")
    return "\n".join(lines)


def _known_keys(config_type: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    model: Any = config_type
    for part in location:
        model_field = getattr(model, "model_fields", {}).get(part)
        if model_field is None:
            continue
        candidates = [model_field.annotation, *get_args(model_field.annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return sorted(getattr(model, "model_fields", {}))


def _shorten(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def run_job(main: Any, arguments: list[str] | None = None) -> None:
    """Run a job's main as a program: its return value is the exit status, or knows the process's own (JobStatus).

    A UserError prints and exits with its own.
    """
    try:
        status = main(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_status
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # A job's own output may go to the disk that is full.
        with suppress(OSError):
            print(f"error: a disk is full: {error}\nMake room and run the same command again.", file=sys.stderr)
        status = UserError.exit_status
    sys.exit(status.of_process if isinstance(status, JobStatus) else status)
