"""The command line of a configuration dataclass: every field is a flag, checked for type and range."""
import argparse
import dataclasses
import difflib
import math
import sys


class UserError(Exception):
    """Something only the user can mend: one line that names the file or option and the remedy."""


class Interrupted(Exception):
    """The user stopped the program, and nothing is lost; the message says how to go on."""


def option(default, meaning, low=None, high=None, choices=None):
    """A dataclass field, its meaning and the values it may take: from low to high, or one of `choices`."""
    return dataclasses.field(default=default,
                             metadata={"meaning": meaning, "low": low, "high": high, "choices": choices})


def allowed(field):
    """What a field may hold, in words: 'an integer from 1 to 100000'."""
    low, high, choices = (field.metadata[k] for k in ("low", "high", "choices"))
    if choices:
        return "one of " + ", ".join(choices)
    if field.type in (str, bool):
        return "a text" if field.type is str else "True or False"
    return f"an integer from {low} to {high}" if field.type is int else f"a number from {low:g} to {high:g}"


def check(config):
    """Raise UserError for the first field of a dataclass instance whose type or range is wrong."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        low, high, choices = (f.metadata[k] for k in ("low", "high", "choices"))
        right_type = type(value) is f.type or (f.type is float and type(value) is int)
        if (not right_type
                or (choices and value not in choices)
                or (f.type is float and not math.isfinite(value))
                or (low is not None and not low <= value <= high)):
            raise UserError(f"--{f.name} must be {allowed(f)}, not {value!r}")


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        flags = [flag for action in self._actions for flag in action.option_strings]
        near = [m for word in message.split() if word.startswith("--")
                for m in difflib.get_close_matches(word.split("=")[0], flags, 1) if m != word]
        hint = f"did you mean {near[0]}?" if near else f"python {self.prog} --help lists the options"
        raise UserError(f"{message}; {hint}")


def parse_args(config_class, argv=None, description=None, prog="abp.py"):
    """The command line as a `config_class` and the names of the options that were given.

    argv  list of str, or None for the process's own.
    Raises UserError for unknown or abbreviated flags and for values of the wrong type or range.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    fields = dataclasses.fields(config_class)
    for f in fields:
        default = f.default if f.default != "" else "none"
        meaning = f"{f.metadata['meaning']}; {allowed(f)} (default: {default})"
        takes = {"action": "store_true"} if f.type is bool else {"metavar": f.type.__name__.upper()}
        parser.add_argument(f"--{f.name}", default=argparse.SUPPRESS, help=meaning.replace("%", "%%"),
                            **takes)
    given = vars(parser.parse_args(argv))
    types = {f.name: f for f in fields}
    values = {}
    for name, text in given.items():
        try:
            values[name] = types[name].type(text)
        except ValueError:
            raise UserError(f"--{name} must be {allowed(types[name])}, not {text!r}") from None
    return config_class(**values), set(given)


def exit_status(program, action):
    """Call action() -> 0; after an error that a user can mend, one line on stderr -> 2; stopped -> 130."""
    def fail(message, status):
        print(f"{program}: {message}", file=sys.stderr)
        return status

    try:
        action()
    except UserError as error:
        return fail(f"error: {error}", 2)
    except OSError as error:
        what = f"{error.filename or 'a file'}: {error.strerror or error}"
        return fail(f"error: {what}; check its permissions and the room on the disk; a run that had begun "
                    "goes on with --resume", 2)
    except (MemoryError, RuntimeError) as error:
        signs = ("out of memory", "allocate memory")
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in signs):
            raise
        return fail("error: out of memory; try a smaller --batch_size, --img_size, --prior_draws or --nz", 2)
    except Interrupted as stop:
        return fail(str(stop), 130)
    except KeyboardInterrupt:
        return fail("stopped; a run that had begun goes on with --resume and its folder", 130)
    return 0
