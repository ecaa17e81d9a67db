"""Command lines of configuration dataclasses: every field is a flag, checked for type and range."""
import argparse
import dataclasses
import difflib
import math
import sys


class UserError(ValueError):
    """An error that the user can correct: one line that names the file or option and the remedy."""


class Interrupted(Exception):
    """The user stopped the program, which saved its state; the message says how to continue."""


def option(default, meaning, low=None, high=None, choices=None, group="", positional=False):
    """A dataclass field with its meaning and its values: low to high, or one of `choices`.

    group       heading of --help for this option and those after it without a group of their own
    positional  given without a flag
    """
    return dataclasses.field(default=default, metadata={
        "meaning": meaning, "low": low, "high": high, "choices": choices, "group": group,
        "positional": positional})


def flag(field):
    """The name of a field on the command line: --lr, or RUN if it is positional."""
    return field.name.upper() if field.metadata["positional"] else f"--{field.name}"


def allowed(field):
    """The values of a field in words: "an integer from 1 to 100000"."""
    low, high, choices = (field.metadata[k] for k in ("low", "high", "choices"))
    if choices:
        return "one of " + ", ".join(choices)
    if field.type in (str, bool):
        return "a text" if field.type is str else "True or False"
    if field.type is int:
        return f"an integer from {low} to {high}"
    return f"a number from {low:g} to {high:g}"


def check(config):
    """Raise UserError if a field of a dataclass instance has the wrong type or range."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        low, high, choices = (f.metadata[k] for k in ("low", "high", "choices"))
        right_type = type(value) is f.type or (f.type is float and type(value) is int)
        if (not right_type
                or (choices and value not in choices)
                or (f.type is float and not math.isfinite(value))
                or (low is not None and not low <= value <= high)):
            raise UserError(f"{flag(f)} must be {allowed(f)}, not {value!r}")


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        flags = [text for action in self._actions for text in action.option_strings]
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        near = [match for word in unknown if word.rstrip(":") not in flags
                for match in difflib.get_close_matches(word, flags, 1)]
        hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists the options"
        raise UserError(f"{message}; {hint}")


def parse_args(config_class, argv=None, description=None, prog="python abp.py", presets=None):
    """The command line -> an instance of config_class, the names of the options that were given.

    argv     list of str; None: that of the process
    presets  {name: {field: value}} for --preset NAME; flags override it; None: no --preset
    Raises UserError for unknown or abbreviated flags and for values of the wrong type or range.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    fields, group = {f.name: f for f in dataclasses.fields(config_class)}, parser
    for name, f in fields.items():
        if f.metadata["group"]:
            group = parser.add_argument_group(f.metadata["group"])
        default = f.default if f.default != "" else "none"
        meaning = f"{f.metadata['meaning']}; {allowed(f)} (default: {default})".replace("%", "%%")
        if f.metadata["positional"]:
            group.add_argument(name, nargs="?", default=argparse.SUPPRESS, help=meaning,
                               metavar=name.upper())
            continue
        takes = {"action": "store_true"} if f.type is bool else {"metavar": f.type.__name__.upper()}
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=meaning, **takes)
    if presets:
        meaning = [f"{name}: " + " ".join(f"--{k} {v}" for k, v in values.items())
                   for name, values in presets.items()]
        parser.add_argument("--preset", choices=sorted(presets), default=argparse.SUPPRESS,
                            help="options by name, which flags override; " + "; ".join(meaning))
    texts = vars(parser.parse_args(argv))
    preset = presets[texts.pop("preset")] if "preset" in texts else {}
    values = {}
    for name, text in texts.items():
        try:
            values[name] = fields[name].type(text)
        except ValueError:
            raise UserError(f"{flag(fields[name])} must be {allowed(fields[name])}, "
                            f"not {text!r}") from None
    return config_class(**preset | values), preset.keys() | values.keys()


def run_program(prog, description, commands, argv=None, presets=None):
    """Run a command line -> the command's exit status or 0; 2 after an error; 130 if stopped.

    commands  {sub-command: (config class, function)}; "" is the program without a sub-command.
              function(config, given) returns None or an exit status
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv.pop(0) if argv and argv[0] in commands else ""

    def run():
        if name not in commands:
            raise UserError(f"name a command: {prog} {' | '.join(commands)}")
        config_class, function = commands[name]
        program = f"{prog} {name}".strip()
        return function(*parse_args(config_class, argv, description, program, presets))

    return exit_status(prog, run)


def exit_status(program, action):
    """Call action() -> its status or 0; 2 after an error, in one line on stderr; 130 if stopped."""
    def fail(message, status):
        print(f"{program}: {message}", file=sys.stderr)
        return status

    try:
        return action() or 0
    except UserError as error:
        return fail(f"error: {error}", 2)
    except OSError as error:
        what = f"{error.filename or 'a file'}: {error.strerror or error}"
        return fail(f"error: {what}; check its permissions and the free disk space; "
                    "a run that had begun continues with --resume", 2)
    except (MemoryError, RuntimeError) as error:
        signs = ("out of memory", "allocate memory")
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in signs):
            raise
        return fail("error: out of memory; try a smaller --batch_size, --img_size, --prior_draws "
                    "or --nz", 2)
    except Interrupted as stop:
        return fail(str(stop), 130)
    except KeyboardInterrupt:
        return fail("stopped; a run that had begun continues with --resume and its folder", 130)
