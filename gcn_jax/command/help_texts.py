"""What ``--help``, ``--version`` and ``--completion`` print, from the tables of modes and flags."""

import importlib.metadata
from collections.abc import Sequence

from gcn_jax.command import recipes
from gcn_jax.errors import UserError
from gcn_jax.modes import FLAGS, GROUPS, MODES

_HELP = ("--help", "-h", "-help", "--helpshort", "--helpfull", "-?")
_WIDTH = 27  # of what is explained

_COMPLETION = """\
_gcn_jax() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} found=""
  if [[ $COMP_CWORD == 1 ]]; then found="{modes}"
  elif [[ $word == -* ]]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  [[ $word == -* ]] && compopt -o nospace
  COMPREPLY=($(compgen -W "$found" -- "$word"))
}}
complete -o default -F _gcn_jax gcn_jax"""


def asked_for(program: str, arguments: Sequence[str]) -> str:
    """The text that a command asks for; "" if it asks for none.

    Raises:
      UserError: if it asks for the completion of a shell that there is none for.
    """
    named = [argument for argument in arguments if argument in MODES]
    named += [mode for argument in arguments if (mode := argument.removeprefix("--mode=")) in MODES]
    if any(argument in _HELP for argument in arguments) or (program == "gcn_jax" and arguments[:1] in ([], ["help"])):
        return _of_mode(program, named[0]) if named else _screen(program)
    if "--version" in arguments:
        return f"gcn_jax {_version()}"
    first = arguments[0].partition("=")[0] if arguments else ""
    if first == "--completion":
        if arguments not in (["--completion", "bash"], ["--completion=bash"]):
            raise UserError("--completion: there is one for bash alone: gcn_jax --completion bash")
        return _completion()
    return ""


def _version() -> str:
    try:
        return importlib.metadata.version("gcn_jax")
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout, not installed"


def _screen(program: str) -> str:
    """All modes, by what they are for."""
    is_command = program == "gcn_jax"
    call = "gcn_jax MODE ..." if is_command else "python run.py --config=CONFIG [--mode=MODE]"
    more = "gcn_jax MODE --help" if is_command else "--mode=MODE --help"
    lines = [f"usage: {call} [--FLAG=VALUE ...]", f"       {more}: the flags of a mode"]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [
            _line(f"{name} {mode.words}" if is_command else f"--mode={name}", mode.about)
            for name, mode in group.items()
        ]
    return "\n".join([*lines, "", *_notes(["CONFIG", "MODEL", "PHOTO"], program)])


def _of_mode(program: str, name: str) -> str:
    """A mode and its flags."""
    mode = MODES[name]
    call = f"gcn_jax {name} {mode.words}" if program == "gcn_jax" else f"python run.py --config=CONFIG --mode={name}"
    flags = [_line(f"--{flag}={FLAGS[flag].value}", FLAGS[flag].about) for flag in mode.flags()]
    return "\n".join(
        [
            f"usage: {call} [--FLAG=VALUE ...]",
            "",
            f"{mode.about[0].upper()}{mode.about[1:]}.",
            "",
            *([_line("--config=CONFIG", "another than that of the model's training")] if mode.needs_trained else []),
            *flags,
            _line("--config.KEY=VALUE", "any value, such as --config.batch_size=8; docs/training.md"),
            "",
            *_notes(mode.words.replace(".", "").split(), program),
        ]
    )


def _notes(words: Sequence[str], program: str) -> list[str]:
    """What words stand for."""
    notes = {
        "CONFIG": ["a recipe, such as voc:stage2, or a file of your own", f"recipes: {', '.join(recipes.names())}"],
        "MODEL": ["the folder of a run, such as runs/voc/stage2, a file that export wrote, or hf://USER/MODEL"],
        "PHOTO": ["an image, a folder, or a glob in quotes"],
    }
    shown = [word for word in words if word in notes and (program == "gcn_jax" or word == "CONFIG")]
    return [_line("" if place else word, line) for word in shown for place, line in enumerate(notes[word])]


def _line(what: str, about: str) -> str:
    return f"  {what:<{_WIDTH}}{about}" if len(what) < _WIDTH else f"  {what}\n  {'':<{_WIDTH}}{about}"


def _completion() -> str:
    """A function of bash that completes modes and flags; all else is files."""
    cases = [
        f'      {name}) found="{" ".join(f"--{flag}=" for flag in ["config", *mode.flags()])}" ;;'
        for name, mode in MODES.items()
    ]
    return _COMPLETION.format(modes=" ".join(MODES), cases="\n".join(cases))
