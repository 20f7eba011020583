"""The script that lets a shell complete `saunet` with the TAB key.

shtab writes a static script, so that TAB starts no Python; the names of networks,
recipes and weights in it are those of the day it was printed.
"""

from saunet.data.datasets import DATASETS
from saunet.errors import InputError, need
from saunet.models import list_models
from saunet.training import RECIPES
from saunet.weights import list_pretrained

SHELLS = ("bash", "zsh", "fish")


def completion_script(parser, shell):
    """Returns the completion script of a command line.

    Args:
        parser: `argparse.ArgumentParser`; its arguments get what completes them.
        shell: "bash", "zsh" or "fish".

    Raises:
        InputError: another shell, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise InputError(f"completion for {shell!r}: expected {', '.join(SHELLS)}")
    need("shtab", "completion")
    import shtab

    names = {
        "--dataset": [*DATASETS, "folder", "synthetic"],
        "--model": list_models(),
        "--print-completion": SHELLS,
        "--recipe": sorted(RECIPES),
        "--weights": list_pretrained(),
        "MODEL": list_models(),
    }
    for action in _actions(parser):
        name = (action.option_strings or [action.metavar])[-1]
        action.choices = action.choices or names.get(name)
        if action.metavar == "DIR":
            action.complete = shtab.DIRECTORY
        elif action.type is None and action.nargs != 0 and not action.choices:
            action.complete = shtab.FILE
    return shtab.complete(parser, shell)


def _actions(parser):
    """Yields the arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
